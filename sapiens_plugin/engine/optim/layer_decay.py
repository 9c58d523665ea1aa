"""Layer-wise learning-rate decay for Sapiens."""

from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from sapiens_plugin.errors import InputError
from sapiens_plugin.registry import OPTIM_WRAPPER_CONSTRUCTORS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Give earlier layers smaller learning rates, and 1-D parameters no weight decay.

    Counted from the head, each layer learns at ``layer_decay_rate`` times the rate of
    the next: patches, cls token and positions least, then ``layers.0`` and on; the
    final norm and the head learn at the full rate. Norms, biases and ``pos_embed`` get
    no weight decay. The number of layers is read off the model.

    Every group carries ``lr_scale``, ``group_name`` and ``param_names``.

    Args:
        optim_wrapper_cfg: Config of the optimizer wrapper, with its optimizer's
            ``lr`` and ``weight_decay``.
        paramwise_cfg: ``dict(layer_decay_rate=0.85)`` is the published value.

    Raises:
        InputError: ``paramwise_cfg`` has anything else, or the rate is not in (0, 1].
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None):
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        self.layer_decay_rate = self.paramwise_cfg.get('layer_decay_rate')
        if self.paramwise_cfg.keys() != {'layer_decay_rate'} or not (
            0 < self.layer_decay_rate <= 1
        ):
            raise InputError(
                f'optim_wrapper.paramwise_cfg={dict(self.paramwise_cfg)} should be '
                'dict(layer_decay_rate=R) with R in (0, 1]; Sapiens was trained with '
                '0.85.'
            )

    def add_params(self, params: list[dict], module: nn.Module, **kwargs) -> None:
        """Append the parameter groups of a model with a ``backbone`` to ``params``.

        Parameters that ``frozen_stages`` holds are left out. Those that only a
        warm-up freezes must still be free now: an optimizer built without them would
        train nothing after it (``PhaseSwitchHook`` freezes later and checks).
        """
        last = len(module.backbone.layers) + 1
        groups: dict[str, dict] = {}
        for name, param in module.named_parameters():
            if not param.requires_grad:
                continue
            layer = _layer_of(name, last)
            decays = param.ndim > 1 and not name.endswith(('.bias', '.pos_embed'))
            group_name = f'layer_{layer}_{"decay" if decays else "no_decay"}'
            if group_name not in groups:
                scale = self.layer_decay_rate ** (last - layer)
                groups[group_name] = dict(
                    params=[],
                    param_names=[],
                    lr=self.base_lr * scale,
                    lr_scale=scale,
                    group_name=group_name,
                )
                if self.base_wd is not None:
                    groups[group_name]['weight_decay'] = self.base_wd * decays
            groups[group_name]['params'].append(param)
            groups[group_name]['param_names'].append(name)
        params.extend(groups.values())


def _layer_of(name: str, last: int) -> int:
    """Number a parameter's layer: 0 for the stem, ``last`` for the norm and head."""
    stem = ('backbone.patch_embed.', 'backbone.pos_embed', 'backbone.cls_token')
    if name.startswith(stem):
        return 0
    if name.startswith('backbone.layers.'):
        return int(name.split('.')[2]) + 1
    return last
