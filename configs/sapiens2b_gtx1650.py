# python3 tools/train.py configs/sapiens2b_gtx1650.py
#
# Sapiens-2B at 384×288 for one GPU of 4 GB, as sapiens1b_gtx1650.py does with 1B.
#
# The GPU memory is the same; host memory of the training process: 20 GB. Twice the
# arithmetic makes twice the time, so this is for cards that have the speed and not the
# memory.
_base_ = 'sapiens1b_gtx1650.py'
from sapiens_plugin.recipe import recipe, sapiens

globals().update(recipe(_base_, sapiens('2b')))
