"""The machinery: PyTorch and below. No command and no package of OpenMMLab is known."""
