"""Every repair of the OpenMMLab stack, one file for each theme.

The stack (mmengine 0.10.7, mmcv-lite 2.1.0, mmdet 3.3.0, mmpose 1.3.2) was released
before the PyTorch, the NumPy and the Python that it runs on here. Each function with a
symptom, a cause and a cure in its docstring repairs one thing, and does nothing where
nothing is broken.
"""
