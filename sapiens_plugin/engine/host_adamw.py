"""HostAdamW under MMEngine's names."""

from sapiens_plugin.registry import OPTIMIZERS
from sapiens_plugin.streaming.host_adamw import HostAdamW

OPTIMIZERS.register_module(module=HostAdamW)
