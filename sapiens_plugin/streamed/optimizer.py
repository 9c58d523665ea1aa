"""HostAdamW under MMEngine's names."""

from sapiens_plugin.core.streaming.host_adamw import HostAdamW
from sapiens_plugin.registry import OPTIMIZERS

OPTIMIZERS.register_module(module=HostAdamW)
