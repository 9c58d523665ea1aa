# What a week (176 hours) of a GTX 1650 buys of Sapiens-0.3B: 256×192, every layer, 16
# epochs.
#
# Estimated at 2 TFLOPS over COCO's 149.8 k persons: 0.44 TFLOP a crop, so 9 h an epoch
# (4 h for the first, head only).
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

max_epochs = 16
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
