# Sapiens-1B with the smallest footprint: one image at a time, 320×240.
#
# Against sapiens1b_gtx1650.py this saves arithmetic (300 tokens a crop instead of
# 432) and about 0.1 GB of activations. Weights, gradients and moments are the same.
_base_ = 'sapiens1b_gtx1650.py'

codec = dict(type='UDPHeatmap', input_size=(240, 320), heatmap_size=(60, 80), sigma=2.5)
model = dict(backbone=dict(img_size=(320, 240)), head=dict(decoder=codec))

train_pipeline = [
    *_base_.before_crop,
    dict(type='TopdownAffine', input_size=codec['input_size'], use_udp=True),
    *_base_.after_crop,
    dict(type='GenerateTarget', encoder=codec),
    dict(type='PackPoseInputs'),
]
val_pipeline = [
    *_base_.before_crop_val,
    dict(type='TopdownAffine', input_size=codec['input_size'], use_udp=True),
    dict(type='PackPoseInputs'),
]
train_dataloader = dict(batch_size=1, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=1, dataset=dict(pipeline=val_pipeline))
test_dataloader = dict(batch_size=1, dataset=dict(pipeline=val_pipeline))

optim_wrapper = dict(accumulative_counts=32)
auto_scale_lr = dict(enable=False, base_batch_size=1)
