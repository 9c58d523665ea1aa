# python3 tools/train.py configs/sapiens2b_coco_1024x768.py
#
# Sapiens-2B at its published resolution; see sapiens1b_coco_1024x768.py.
#
# GPU memory, computed: 34.7 GB of weights, gradients and moments; activations come on top.
_base_ = 'sapiens1b_coco_1024x768.py'
from sapiens_plugin.recipe import recipe, sapiens

globals().update(recipe(_base_, sapiens('2b')))
