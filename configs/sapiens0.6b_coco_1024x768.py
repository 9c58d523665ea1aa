# Sapiens-0.6B at its published resolution; see sapiens1b_coco_1024x768.py.
#
# GPU memory, computed: 10.6 GB of weights, gradients and moments; activations come on top.
_base_ = 'sapiens1b_coco_1024x768.py'

model = dict(
    backbone=dict(
        arch='sapiens_0.6b',
        init_cfg=dict(
            checkpoint='{{ fileDirname }}/../data/pretrained/sapiens_0.6b/'
            'sapiens_0.6b_epoch_1600_torchscript.pt2',
        ),
    ),
    head=dict(in_channels=1280),
)
