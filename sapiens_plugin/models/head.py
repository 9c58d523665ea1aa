"""The published Sapiens pose head."""

from mmpose.models.heads import HeatmapHead
from torch import Tensor, nn

from sapiens_plugin.registry import MODELS


@MODELS.register_module()
class SapiensHeatmapHead(HeatmapHead):
    """MMPose's heatmap head with InstanceNorm and SiLU, as published for Sapiens.

    The norm has no parameters and no statistics across samples, so the keys are those
    of the published heads and gradients accumulate exactly over micro-batches.
    Arguments are those of :class:`mmpose.models.heads.HeatmapHead`.
    """

    def forward(self, feats: tuple[Tensor]) -> Tensor:
        """Predict heatmaps.

        Args:
            feats: Feature maps; the last one, (B, D, h, w), is used.

        Returns:
            Heatmaps (B, K, H, W) in float32 also under autocast: neither the loss's
            accuracy nor the decoder can read bfloat16.
        """
        return super().forward(feats).float()

    def _make_conv_layers(self, *args, **kwargs) -> nn.Sequential:
        return _restyle(super()._make_conv_layers(*args, **kwargs))

    def _make_deconv_layers(self, *args, **kwargs) -> nn.Sequential:
        return _restyle(super()._make_deconv_layers(*args, **kwargs))


def _restyle(layers: nn.Sequential) -> nn.Sequential:
    """Exchange norms and activations; positions, and so key names, stay."""
    exchange = {
        nn.BatchNorm2d: lambda norm: nn.InstanceNorm2d(norm.num_features),
        nn.ReLU: lambda _: nn.SiLU(inplace=True),
    }
    return nn.Sequential(
        *(exchange.get(type(layer), lambda same: same)(layer) for layer in layers)
    )
