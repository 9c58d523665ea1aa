"""The machinery: PyTorch and below; it knows no command and nothing of OpenMMLab."""
