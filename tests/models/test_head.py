import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData, PixelData
from mmpose.registry import KEYPOINT_CODECS
from mmpose.structures import PoseDataSample
from torch import nn

from sapiens_plugin.registry import MODELS

CODEC = dict(
    type='mmpose.UDPHeatmap', input_size=(48, 64), heatmap_size=(12, 16), sigma=2
)


def make(init=True, **kwargs):
    cfg = dict(
        type='sapiens_plugin.SapiensHeatmapHead',
        in_channels=32,
        out_channels=17,
        deconv_out_channels=(16, 16),
        deconv_kernel_sizes=(4, 4),
        conv_out_channels=(16, 16),
        conv_kernel_sizes=(1, 1),
        loss=dict(type='mmpose.KeypointMSELoss', use_target_weight=True),
        decoder=CODEC,
    )
    head = MODELS.build(cfg | kwargs)
    if init:
        head.init_weights()
    return head


def test_parameters_are_those_of_the_published_head():
    with torch.device('meta'):
        head = make(
            init=False,
            in_channels=1536,
            deconv_out_channels=(768, 768),
            conv_out_channels=(768, 768),
        )
    assert set(head.state_dict()) == {
        'deconv_layers.0.weight', 'deconv_layers.3.weight',
        'conv_layers.0.weight', 'conv_layers.0.bias',
        'conv_layers.3.weight', 'conv_layers.3.bias',
        'final_layer.weight', 'final_layer.bias',
    }  # fmt: skip
    assert sum(p.numel() for p in head.parameters()) == 29_505_809


def test_norms_see_one_sample_and_activations_are_silu():
    head = make().train()
    kinds = {type(m) for m in head.modules()}
    assert nn.InstanceNorm2d in kinds and nn.SiLU in kinds
    assert not kinds & {nn.BatchNorm2d, nn.ReLU}
    x = torch.randn(2, 32, 4, 3)
    torch.testing.assert_close(head((x,))[:1], head((x[:1],)))


def samples(count):
    codec = KEYPOINT_CODECS.build(CODEC)
    rng = np.random.default_rng(0)
    for _ in range(count):
        target = codec.encode(
            rng.uniform(8, 40, (1, 17, 2)).astype(np.float32), np.ones((1, 17), 'f4')
        )
        sample = PoseDataSample()
        sample.gt_fields = PixelData(heatmaps=torch.from_numpy(target['heatmaps']))
        sample.gt_instance_labels = InstanceData(
            keypoint_weights=torch.from_numpy(target['keypoint_weights'])
        )
        yield sample


def test_heatmaps_are_float32_under_autocast_and_the_loss_can_read_them():
    head = make()
    feats = (torch.randn(2, 32, 4, 3, requires_grad=True),)
    with torch.autocast('cpu', torch.bfloat16):
        assert head(feats).dtype == torch.float32
        losses = head.loss(feats, list(samples(2)))
    losses['loss_kpt'].backward()
    assert feats[0].grad.abs().sum() > 0
    # Stock MMPose's head fails on the same input: what the cast is for.
    stock = make(type='mmpose.HeatmapHead')
    with (
        torch.autocast('cpu', torch.bfloat16),
        pytest.raises(TypeError, match='BFloat16'),
    ):
        stock.loss(feats, list(samples(2)))
