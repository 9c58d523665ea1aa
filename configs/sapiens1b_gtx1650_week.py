# python3 tools/train.py configs/sapiens1b_gtx1650_week.py
#
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
from sapiens_plugin.recipe import recipe, resized, two_phases

globals().update(
    recipe(
        _base_,
        resized(256, 192),
        two_phases(warmup_epochs=1, max_epochs=8),
        dict(
            model=dict(backbone=dict(frozen_stages=24)),
            # With so few epochs, one is too much to lose.
            default_hooks=dict(checkpoint=dict(interval=1)),
        ),
    )
)
