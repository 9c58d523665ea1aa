# python3 tools/train.py configs/sapiens0.3b_gtx1650_week.py
#
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
from sapiens_plugin.recipe import recipe, sapiens, two_phases

globals().update(
    recipe(
        _base_,
        sapiens('0.3b'),
        two_phases(warmup_epochs=1, max_epochs=15),
        dict(model=dict(backbone=dict(frozen_stages=-1))),
    )
)
