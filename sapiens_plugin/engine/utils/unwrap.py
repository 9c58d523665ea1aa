"""The model itself, whatever it is wrapped in."""

from mmengine.model import is_model_wrapper
from torch import nn


def unwrap(model: nn.Module) -> nn.Module:
    """Return what a wrapper such as ``DistributedDataParallel`` holds, or the model."""
    return model.module if is_model_wrapper(model) else model
