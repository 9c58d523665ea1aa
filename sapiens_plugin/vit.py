"""The Sapiens ViTs and readers of their weights, for any program that has PyTorch.

``sapiens_plugin.vit`` and ``sapiens_plugin.vit.model`` (and so on) are the names to
import; where the modules lie, in ``core/``, may change.
"""

import sys

from sapiens_plugin.core.vit import architectures, lifting, model, pos_embed
from sapiens_plugin.core.vit.architectures import ARCHITECTURES, get_architecture
from sapiens_plugin.core.vit.lifting import load_backbone
from sapiens_plugin.core.vit.model import SapiensViT
from sapiens_plugin.core.weight_files import checkpoint, sampling, untrusted
from sapiens_plugin.core.weight_files.checkpoint import open_weights

__all__ = [
    'ARCHITECTURES',
    'SapiensViT',
    'get_architecture',
    'load_backbone',
    'open_weights',
]

# The same modules under these names, not copies: a class is one class.
for _module in (
    *(architectures, lifting, model, pos_embed),
    *(checkpoint, sampling, untrusted),
):
    sys.modules[f'{__name__}.{_module.__name__.rpartition(".")[2]}'] = _module
