# Sapiens-1B at its published resolution, for the published COCO checkpoints and for
# training like them on large GPUs (the authors used 16 A100s for about a week).
#
# GPU memory, computed by tools/plan.py for training at 1 image: 23 GiB (24 GB). Weights,
# gradients and moments take 17.4 GiB, layer boundaries 0.7, AdamW's step 3.7, CUDA and
# gaps the rest. For tools/test.py: 7.1 GiB.
_base_ = ['_base_/runtime.py', '_base_/coco.py', '_base_/sapiens_pose.py']

codec = dict(
    type='UDPHeatmap', input_size=(768, 1024), heatmap_size=(192, 256), sigma=6
)
model = dict(
    backbone=dict(
        arch='sapiens_1b',
        img_size=(1024, 768),
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
    batch_size=1, num_workers=4, dataset=dict(pipeline=train_pipeline)
)
val_dataloader = dict(batch_size=4, dataset=dict(pipeline=val_pipeline))
test_dataloader = dict(batch_size=4, dataset=dict(pipeline=val_pipeline))

# MMPose's schedule for ViTs. With N GPUs the effective batch is 16 × N.
train_cfg = dict(
    type='sapiens_plugin.ResumableTrainLoop', max_epochs=210, val_interval=10
)
optim_wrapper = dict(accumulative_counts=16)
auto_scale_lr = dict(enable=False, base_batch_size=1)
param_scheduler = [
    dict(
        type='sapiens_plugin.WarmupLR',
        optimizer_steps=500,
        start_factor=1e-3,
        convert_to_iter_based=True,
    ),
    dict(type='MultiStepLR', begin=0, end=210, milestones=[170, 200], gamma=0.1),
]
