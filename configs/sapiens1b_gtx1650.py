# Sapiens-1B at 384×288 for one GPU: 10 epochs of the head alone, then 100 epochs of
# everything, at an effective batch of 32.
#
# GPU memory of phase 2, computed: weights 4.7 GB, gradients 4.7 GB, Adam moments
# 9.3 GB. That is 18.6 GB before activations, for a card of 24 GB. Phase 1 needs no
# gradients and no moments of the backbone, and about 6 GB.
#
# Time, estimated from arithmetic at 2 TFLOPS (a GTX 1650): 25 h an epoch of phase 1 and
# 89 h an epoch of phase 2, so about a year. See sapiens1b_gtx1650_week.py for a job that
# ends within a week. Validation takes 1 h, so it can come after every epoch.
_base_ = ['_base_/two_phases.py', '_base_/coco.py', '_base_/sapiens_pose.py']

# Sizes of the codec are (width, height) in px, img_size is (height, width).
codec = dict(type='UDPHeatmap', input_size=(288, 384), heatmap_size=(72, 96), sigma=3)
model = dict(
    backbone=dict(
        arch='sapiens_1b',
        img_size=(384, 288),
        # Recompute each layer in backward instead of keeping its activations. At 2
        # images: 0.2 GB kept instead of 3.5 GB, for a third more time.
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
# Workers share the annotations on Linux; on Windows each has a copy of its own.
train_dataloader = dict(
    batch_size=2, num_workers=2, dataset=dict(pipeline=train_pipeline)
)
val_dataloader = dict(batch_size=8, dataset=dict(pipeline=val_pipeline))
test_dataloader = dict(batch_size=8, dataset=dict(pipeline=val_pipeline))

# 2 images × 16 make the effective batch of 32. Accumulation costs no memory.
optim_wrapper = dict(accumulative_counts=16)
# What --auto-scale-lr compares is images an iteration, before accumulation.
auto_scale_lr = dict(enable=False, base_batch_size=2)
