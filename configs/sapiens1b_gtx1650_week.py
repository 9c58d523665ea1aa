# What a week (176 hours) of a GTX 1650 Max-Q buys of Sapiens-1B: 256×192, the last 16 of
# 40 layers, 8 epochs. As `tools/plan.py configs/sapiens1b_gtx1650.py --gpu gtx1650-maxq
# --within 176h` finds it.
#
# Computed at 2 TFLOPS over COCO's 149.8 k persons: 22 h an epoch (11.5 h for the first,
# head only), 171 h in all, validations included; 163 h at least.
#
# Given up: pixels (0.44 of those of 384×288, where a week is over after 2 such epochs);
# epochs (the published recipe has 210); and the first 24 layers, which keep their
# pre-trained weights: under layer decay they would have learned at 6% of the head's rate
# and less, and training them makes an epoch 1.8 times as long. What AP comes of it
# nobody has shown.
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
