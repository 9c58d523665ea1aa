"""The Sapiens ViT as an MMPose backbone."""

from collections.abc import Iterator, Mapping

from mmengine.logging import print_log
from torch import nn

from sapiens_plugin.core.vit.lifting import load_backbone
from sapiens_plugin.core.vit.model import SapiensViT
from sapiens_plugin.errors import InputError
from sapiens_plugin.registry import MODELS


@MODELS.register_module()
class SapiensBackbone(SapiensViT):
    """Eager Sapiens ViT with OpenMMLab's conventions for weights and freezing.

    Args:
        arch: ``'sapiens_0.3b'``, ``'sapiens_0.6b'``, ``'sapiens_1b'``,
            ``'sapiens_2b'``, or a dict with ``embed_dims``, ``num_layers``,
            ``num_heads`` and ``feedforward_channels``.
        img_size: Input (height, width) in px.
        frozen_stages: Parts that never train: -1 none, 0 patches and positions,
            N those and the first N layers; with all layers, the final norm too.
        init_cfg: ``dict(type='Pretrained', checkpoint=PATH)`` for a TorchScript
            archive, a ``.pth`` or safetensors. None starts from random weights.
        **vit_kwargs: ``patch_padding``, ``with_cls_token``, ``drop_path_rate``,
            ``with_cp`` as in :class:`~sapiens_plugin.core.vit.model.SapiensViT`.

    Raises:
        InputError: An argument is out of its range.
    """

    def __init__(
        self,
        arch: str | Mapping,
        *,
        img_size: tuple[int, int],
        frozen_stages: int = -1,
        init_cfg: Mapping | None = None,
        **vit_kwargs,
    ):
        super().__init__(arch, img_size=img_size, **vit_kwargs)
        depth = self.arch.num_layers
        if not -1 <= frozen_stages <= depth:
            raise InputError(
                f'frozen_stages={frozen_stages} is not in -1 to {depth}, the number '
                'of layers of this backbone.'
            )
        if init_cfg is not None and (
            init_cfg.get('type') != 'Pretrained' or 'checkpoint' not in init_cfg
        ):
            raise InputError(
                f'backbone init_cfg={dict(init_cfg)} is not understood. Give '
                "dict(type='Pretrained', checkpoint=PATH), or None to start from "
                'random weights.'
            )
        self.frozen_stages = frozen_stages
        self.init_cfg = init_cfg
        self.set_frozen(False)

    def init_weights(self) -> None:
        """Fill the weights from ``init_cfg``'s file, or at random without one.

        Raises:
            InputError: The file does not fit
                (:func:`~sapiens_plugin.core.vit.lifting.load_backbone`).
        """
        if self.init_cfg is None:
            super().init_weights()
            return
        report = load_backbone(self, self.init_cfg['checkpoint'])
        print_log(str(report), logger='current')

    def set_frozen(self, frozen: bool) -> None:
        """Freeze the whole backbone, or just what ``frozen_stages`` holds.

        A frozen part takes no gradient and stays in eval mode through ``train()``.
        """
        self._is_frozen = frozen
        self.requires_grad_(not frozen)
        for module in self._held_modules():
            module.requires_grad_(False)
        if self.frozen_stages >= 0:
            self.pos_embed.requires_grad_(False)
            if self.num_extra_tokens:
                self.cls_token.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> 'SapiensBackbone':
        """Set the mode of all that is not frozen; frozen parts stay in eval.

        The training loop calls this at each epoch's start, after its hooks.
        """
        super().train(mode and not self._is_frozen)
        for module in self._held_modules():
            module.eval()
        return self

    def _held_modules(self) -> Iterator[nn.Module]:
        """Yield the modules that ``frozen_stages`` never lets train."""
        if self.frozen_stages >= 0:
            yield self.patch_embed
            yield from self.layers[: self.frozen_stages]
        if self.frozen_stages == len(self.layers):
            yield self.ln1
