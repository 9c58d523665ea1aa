# python3 tools/train.py configs/sapiens0.6b_coco_1024x768.py
#
# Sapiens-0.6B at its published resolution; see sapiens1b_coco_1024x768.py.
#
# GPU memory, computed: 10.6 GB of weights, gradients and moments; activations come on top.
_base_ = 'sapiens1b_coco_1024x768.py'
from sapiens_plugin.recipe import recipe, sapiens

globals().update(recipe(_base_, sapiens('0.6b')))
