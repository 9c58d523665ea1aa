# Sapiens-2B at 384×288 for one GPU of 4 GB, as sapiens1b_gtx1650.py does with 1B.
#
# The GPU memory is the same; host memory of the training process: 20 GB. Twice the
# arithmetic makes twice the time, so this is for cards that have the speed and not the
# memory.
_base_ = 'sapiens1b_gtx1650.py'

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
