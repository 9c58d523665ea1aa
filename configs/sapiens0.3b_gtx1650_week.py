# What a week (176 hours) of a GTX 1650 Max-Q buys of Sapiens-0.3B: 256×192, every layer,
# 15 epochs. As `tools/plan.py --gpu gtx1650-maxq --within 176h` finds it from this config
# with more epochs.
#
# Computed at 2 TFLOPS over COCO's 149.8 k persons: 11.6 h an epoch (4.4 h for the first,
# head only), 169 h in all, validations included; 157 h at least. 8 of 24 layers are
# computed again in backward, which is what 4 GB leave room for.
#
# Given up: the larger model (1024×768: 79.6 AP published, 1B 82.1), pixels, and epochs
# (the published recipe has 210). Kept: every layer trains, twice as often as those of
# sapiens1b_gtx1650_week.py. Which of the two ends higher nobody has shown.
#
# Host memory of the training process: 4 GB.
_base_ = 'sapiens1b_gtx1650_week.py'

model = dict(
    backbone=dict(
        arch='sapiens_0.3b',
        frozen_stages=-1,
        init_cfg=dict(
            checkpoint='{{ fileDirname }}/../data/pretrained/sapiens_0.3b/'
            'sapiens_0.3b_epoch_1600_torchscript.pt2',
        ),
    ),
    head=dict(in_channels=1024),
)

max_epochs = 15
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    *_base_.param_scheduler[:-1],
    dict(
        type='CosineAnnealingLR',
        begin=_base_.warmup_epochs,
        end=max_epochs,
        eta_min=0.0,
        convert_to_iter_based=True,
    ),
]
