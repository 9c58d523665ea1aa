import pytest
import torch

from sapiens_plugin.errors import InputError
from sapiens_plugin.models.backbone import SapiensBackbone
from sapiens_plugin.registry import MODELS

TINY = dict(embed_dims=32, num_layers=3, num_heads=2, feedforward_channels=64)


def make(**kwargs) -> SapiensBackbone:
    cfg = dict(type='sapiens_plugin.SapiensBackbone', arch=TINY, img_size=(64, 48))
    return MODELS.build(cfg | kwargs)


def trainable(backbone):
    return {name for name, p in backbone.named_parameters() if p.requires_grad}


def test_it_is_built_by_name_and_returns_a_tuple_of_one_map():
    (features,) = make()(torch.randn(2, 3, 64, 48))
    assert features.shape == (2, 32, 4, 3)


@pytest.mark.parametrize('stages', [-1, 0, 1, 3])
def test_frozen_stages_hold_through_train(stages):
    backbone = make(frozen_stages=stages)
    names = {name for name, _ in backbone.named_parameters()}
    held = set()
    if stages >= 0:
        held = {
            'pos_embed',
            'patch_embed.projection.weight',
            'patch_embed.projection.bias',
        }
        held |= {
            n for n in names for i in range(stages) if n.startswith(f'layers.{i}.')
        }
    if stages == 3:
        held |= {'ln1.weight', 'ln1.bias'}
    for _ in range(2):
        backbone.train()
        assert trainable(backbone) == names - held
        assert [layer.training for layer in backbone.layers] == [
            i >= stages for i in range(3)
        ]
        backbone.set_frozen(True)
        backbone.train()
        assert not trainable(backbone) and not backbone.layers[2].training
        backbone.set_frozen(False)


def test_weights_come_from_the_file_that_init_cfg_names(tmp_path):
    torch.manual_seed(0)
    source = make()
    source.init_weights()
    torch.save(source.state_dict(), tmp_path / 'w.pth')
    backbone = make(
        init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'w.pth'))
    )
    backbone.init_weights()
    for name, value in source.state_dict().items():
        assert torch.equal(backbone.state_dict()[name], value), name


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(frozen_stages=4), 'frozen_stages=4 is not in -1 to 3'),
        (dict(arch='sapiens_7b'), 'sapiens_7b'),
        (dict(init_cfg=dict(type='Normal')), "type='Pretrained'"),
        (dict(init_cfg=dict(type='Pretrained')), 'checkpoint=PATH'),
    ],
)
def test_bad_arguments_are_refused(kwargs, message):
    with pytest.raises(InputError, match=message):
        make(**kwargs)
