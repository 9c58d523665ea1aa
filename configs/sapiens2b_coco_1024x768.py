# Sapiens-2B at its published resolution; see sapiens1b_coco_1024x768.py.
#
# GPU memory, computed: 34.7 GB of weights, gradients and moments; activations come on top.
_base_ = 'sapiens1b_coco_1024x768.py'

model = dict(
    backbone=dict(
        arch='sapiens_2b',
        init_cfg=dict(
            checkpoint='{{ fileDirname }}/../data/pretrained/sapiens_2b/'
            'sapiens_2b_epoch_660_torchscript.pt2',
        ),
    ),
    head=dict(in_channels=1920),
)
