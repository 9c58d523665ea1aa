# What a week (176 hours) of a GTX 1650 buys of Sapiens-1B: 256×192, the last 16 of 40
# layers, 8 epochs.
#
# Estimated at 2 TFLOPS over COCO's 149.8 k persons: 1.1 TFLOP a crop, so 23 h an epoch
# (11 h for the first, head only). Under layer decay the frozen layers would have
# learned at 6% of the head's rate and less.
#
# Host memory of the training process: 8 GB.
_base_ = 'sapiens1b_gtx1650.py'

codec = dict(type='UDPHeatmap', input_size=(192, 256), heatmap_size=(48, 64), sigma=2)
model = dict(
    backbone=dict(img_size=(256, 192), frozen_stages=24),
    head=dict(decoder=codec),
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
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=val_pipeline))
test_dataloader = dict(dataset=dict(pipeline=val_pipeline))

warmup_epochs, max_epochs = 1, 8
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    *(
        dict(
            type='sapiens_plugin.WarmupLR',
            begin=begin,
            optimizer_steps=500,
            start_factor=1e-3,
            convert_to_iter_based=True,
        )
        for begin in (0, warmup_epochs)
    ),
    dict(
        type='CosineAnnealingLR',
        begin=warmup_epochs,
        end=max_epochs,
        eta_min=0.0,
        convert_to_iter_based=True,
    ),
]
# With so few epochs, one is too much to lose.
default_hooks = dict(checkpoint=dict(interval=1))
custom_hooks = [
    *_base_.custom_hooks[:-1],
    dict(type='sapiens_plugin.PhaseSwitchHook', warmup_epochs=warmup_epochs),
]
