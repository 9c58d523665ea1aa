import pytest
import torch
from mmengine.config import ConfigDict
from torch import nn

from sapiens_plugin.engine.optim.layer_decay import LayerDecayOptimWrapperConstructor
from sapiens_plugin.errors import InputError
from sapiens_plugin.models.backbone import SapiensBackbone


class Pose(nn.Module):
    def __init__(self, **backbone):
        super().__init__()
        self.backbone = SapiensBackbone('sapiens_1b', img_size=(384, 288), **backbone)
        self.head = nn.Conv2d(1536, 17, 1)


def groups_of(model, rate=0.85):
    constructor = LayerDecayOptimWrapperConstructor(
        dict(optimizer=ConfigDict(type='AdamW', lr=5e-4, weight_decay=0.1)),
        dict(layer_decay_rate=rate),
    )
    return {g['group_name']: g for g in constructor(model).optimizer.param_groups}


@pytest.fixture(scope='module')
def model():
    with torch.device('meta'):
        return Pose()


def test_sapiens_1b_gets_its_84_published_groups(model):
    groups = groups_of(model)
    assert len(groups) == 84
    for name, lr in [
        ('layer_0_decay', 6.38e-7),
        ('layer_0_no_decay', 6.38e-7),
        ('layer_40_decay', 4.25e-4),
        ('layer_41_decay', 5e-4),
    ]:
        assert groups[name]['lr'] == pytest.approx(lr, rel=2e-3)


def test_every_parameter_is_in_one_group(model):
    names = [n for g in groups_of(model).values() for n in g['param_names']]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())


def test_layers_are_numbered_from_the_stem_to_the_head(model):
    groups = groups_of(model)
    assert groups['layer_0_decay']['param_names'] == [
        'backbone.patch_embed.projection.weight'
    ]
    assert 'backbone.pos_embed' in groups['layer_0_no_decay']['param_names']
    assert 'backbone.layers.0.attn.qkv.weight' in groups['layer_1_decay']['param_names']
    assert set(groups['layer_41_no_decay']['param_names']) == {
        'backbone.ln1.weight',
        'backbone.ln1.bias',
        'head.bias',
    }


def test_one_dimensional_parameters_biases_and_positions_do_not_decay(model):
    for group in groups_of(model).values():
        assert group['weight_decay'] in (0, 0.1)
        for name, param in zip(group['param_names'], group['params'], strict=True):
            plain = param.ndim == 1 or name.endswith('.bias') or 'pos_embed' in name
            assert plain == (group['weight_decay'] == 0), name


def test_frozen_stages_are_left_out():
    with torch.device('meta'):
        groups = groups_of(Pose(frozen_stages=24))
    layers = {int(name.split('_')[1]) for name in groups}
    assert layers == set(range(25, 42))


@pytest.mark.parametrize(
    'paramwise_cfg',
    [{}, dict(layer_decay_rate=0), dict(layer_decay_rate=0.9, num_layers=3)],
)
def test_other_settings_are_refused(paramwise_cfg):
    with pytest.raises(InputError, match='layer_decay_rate=R'):
        LayerDecayOptimWrapperConstructor(
            dict(optimizer=ConfigDict(type='AdamW', lr=1.0)), paramwise_cfg
        )
