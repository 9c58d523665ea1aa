# Sapiens-0.3B at its published resolution; see sapiens1b_coco_1024x768.py.
#
# GPU memory, computed: 5.2 GB of weights, gradients and moments; activations come on top.
_base_ = 'sapiens1b_coco_1024x768.py'

model = dict(
    backbone=dict(
        arch='sapiens_0.3b',
        init_cfg=dict(
            checkpoint='{{ fileDirname }}/../data/pretrained/sapiens_0.3b/'
            'sapiens_0.3b_epoch_1600_torchscript.pt2',
        ),
    ),
    head=dict(in_channels=1024),
)
