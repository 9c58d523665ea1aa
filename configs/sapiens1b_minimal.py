# python3 tools/train.py configs/sapiens1b_minimal.py
#
# Sapiens-1B with the smallest footprint: one image at a time, 320×240.
#
# Against sapiens1b_gtx1650.py this saves arithmetic (300 tokens a crop instead of
# 432) and GPU memory: 2.4 GB instead of 3.0. Host memory is the same.
_base_ = 'sapiens1b_gtx1650.py'
from sapiens_plugin.recipe import recipe, resized, streamed

globals().update(
    recipe(
        _base_,
        resized(320, 240),
        streamed(micro_batch=1, vram_budget=2400),
        dict(val_dataloader=dict(batch_size=1), test_dataloader=dict(batch_size=1)),
    )
)
