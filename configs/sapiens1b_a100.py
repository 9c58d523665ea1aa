# Sapiens-1B at 512×384 on a large GPU, 32 images at once, in bf16 on top of fp32
# weights.
#
# GPU memory, computed by tools/plan.py: 35 GiB. Weights, gradients and moments take
# 17.4 GiB; layer boundaries (autocast keeps the residual stream in fp32) and bf16 copies
# of weights 7.7; one recomputed layer and the head 7.7; CUDA and gaps the rest. Several
# GPUs take 4.3 GiB more each, for gradients on their way.
_base_ = ['_base_/two_phases.py', '_base_/coco.py', '_base_/sapiens_pose.py']

codec = dict(type='UDPHeatmap', input_size=(384, 512), heatmap_size=(96, 128), sigma=3)
model = dict(
    backbone=dict(
        arch='sapiens_1b',
        img_size=(512, 384),
        # with_cp=False saves a quarter of the time and takes 50 GB more.
        with_cp=True,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='{{ fileDirname }}/../data/pretrained/sapiens_1b/'
            'sapiens_1b_epoch_173_torchscript.pt2',
        ),
    ),
    head=dict(in_channels=1536, decoder=codec),
)

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
train_dataloader = dict(
    batch_size=32, num_workers=8, dataset=dict(pipeline=train_pipeline)
)
val_dataloader = dict(batch_size=64, num_workers=8, dataset=dict(pipeline=val_pipeline))
test_dataloader = dict(
    batch_size=64, num_workers=8, dataset=dict(pipeline=val_pipeline)
)

# bfloat16 has float32's range, so losses need no scaling.
optim_wrapper = dict(type='AmpOptimWrapper', dtype='bfloat16', loss_scale=1.0)
auto_scale_lr = dict(enable=False, base_batch_size=32)
