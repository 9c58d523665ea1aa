import numpy as np
import pytest
import torch

from sapiens_plugin.core.vit.architectures import ARCHITECTURES, get_architecture
from sapiens_plugin.core.vit.model import Block, DropPath, SapiensViT, patch_grid
from sapiens_plugin.errors import InputError

TINY = dict(embed_dims=64, num_layers=3, num_heads=4, feedforward_channels=256)


def tiny_vit(**kwargs) -> SapiensViT:
    torch.manual_seed(0)
    vit = SapiensViT(TINY, **{'img_size': (64, 48), **kwargs})
    vit.init_weights()
    return vit


# Parameters at 384×288 without cls token, from the model cards' architecture.
@pytest.mark.parametrize(
    'arch, count',
    [
        ('sapiens_0.3b', 303_541_248),
        ('sapiens_0.6b', 631_217_920),
        ('sapiens_1b', 1_135_108_608),
        ('sapiens_2b', 2_126_874_240),
    ],
)
def test_published_sizes_have_the_published_parameter_counts(arch, count):
    with torch.device('meta'):
        vit = SapiensViT(arch, img_size=(384, 288))
    assert sum(p.numel() for p in vit.parameters()) == count


def test_parameter_names_are_the_published_ones():
    layer = [
        'ln1.weight', 'ln1.bias', 'attn.qkv.weight', 'attn.qkv.bias',
        'attn.proj.weight', 'attn.proj.bias', 'ln2.weight', 'ln2.bias',
        'ffn.layers.0.0.weight', 'ffn.layers.0.0.bias',
        'ffn.layers.1.weight', 'ffn.layers.1.bias',
    ]  # fmt: skip
    expected = {
        'cls_token', 'pos_embed', 'patch_embed.projection.weight',
        'patch_embed.projection.bias', 'ln1.weight', 'ln1.bias',
    } | {f'layers.{i}.{name}' for i in range(3) for name in layer}  # fmt: skip
    assert set(tiny_vit(with_cls_token=True).state_dict()) == expected


@pytest.mark.parametrize('size', [(384, 288), (256, 192)])
def test_features_agree_with_the_reference_model(size, reference_npz):
    numbers = np.load(reference_npz)
    key = f'{size[0]}x{size[1]}'
    vit = SapiensViT(TINY, img_size=size).eval()
    weights = {
        name.removeprefix('weights/backbone.'): torch.from_numpy(numbers[name])
        for name in numbers
        if name.startswith('weights/')
    }
    del weights['cls_token']
    weights['pos_embed'] = torch.from_numpy(numbers[f'{key}/pos_embed'])
    vit.load_state_dict(weights)
    with torch.no_grad():
        (features,) = vit(torch.from_numpy(numbers[f'{key}/input']))
    torch.testing.assert_close(
        features, torch.from_numpy(numbers[f'{key}/features']), atol=1e-4, rtol=0
    )


def test_patch_padding_matters():
    images = torch.randn(1, 3, 64, 48)
    padded, plain = tiny_vit(), tiny_vit(patch_padding=0)
    assert padded(images)[0].shape == plain(images)[0].shape == (1, 64, 4, 3)
    assert not torch.allclose(padded(images)[0], plain(images)[0], atol=1e-2)


def test_cls_token_takes_part_in_attention_but_not_in_the_output():
    vit = tiny_vit(with_cls_token=True).eval()
    images = torch.randn(2, 3, 64, 48)
    (before,) = vit(images)
    assert before.shape == (2, 64, 4, 3)
    with torch.no_grad():
        vit.cls_token += torch.randn(64)
    assert not torch.allclose(before, vit(images)[0], atol=1e-4)


@pytest.mark.parametrize('with_cls_token', [False, True])
def test_another_input_size_runs_with_resampled_positions(with_cls_token):
    vit = tiny_vit(with_cls_token=with_cls_token)
    assert vit(torch.randn(1, 3, 96, 80))[0].shape == (1, 64, 6, 5)
    # A constant table is the same at every grid, so the position must cancel out.
    with torch.no_grad():
        vit.pos_embed.fill_(0.5)
    extra = vit.num_extra_tokens
    assert torch.allclose(
        vit._positions((6, 5))[:, extra:], torch.tensor(0.5), atol=1e-5
    )


def test_a_size_that_does_not_divide_names_its_neighbours():
    with pytest.raises(InputError, match=r'380×290.*368×288 and 384×304'):
        tiny_vit()(torch.zeros(1, 3, 380, 290))
    with pytest.raises(InputError, match='16×16'):
        patch_grid(3, 5)


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(patch_padding=8), 'patch_padding=8'),
        (dict(drop_path_rate=1.0), 'drop_path_rate=1.0'),
        (dict(img_size=(100, 48)), '100×48'),
    ],
)
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(InputError, match=message):
        tiny_vit(**kwargs)


@pytest.mark.parametrize(
    'arch, message',
    [
        ('sapiens_3b', "'sapiens_3b' is not a Sapiens size"),
        (dict(embed_dims=64), 'a dict with just embed_dims, num_layers'),
        ({**TINY, 'num_heads': 7}, '64 cannot be shared among 7'),
        ({**TINY, 'num_layers': 0}, 'num_layers=0'),
    ],
)
def test_unknown_architectures_are_refused(arch, message):
    with pytest.raises(InputError, match=message):
        get_architecture(arch)


def test_recomputation_changes_no_gradient():
    images = torch.randn(2, 3, 64, 48)
    gradients = []
    for with_cp in (False, True):
        vit = tiny_vit(with_cp=with_cp, drop_path_rate=0.5)
        torch.manual_seed(1)
        vit(images)[0].square().mean().backward()
        gradients.append([p.grad for p in vit.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        assert torch.equal(plain, recomputed)


def test_recomputation_keeps_fewer_activations():
    def saved_bytes(with_cp):
        total = 0

        def pack(tensor):
            nonlocal total
            total += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            tiny_vit(with_cp=with_cp)(torch.randn(4, 3, 64, 48))
        return total

    assert saved_bytes(True) < saved_bytes(False) / 3


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    drop = DropPath(0.25)
    out = drop(torch.ones(4000, 2, 3)).flatten(1)
    assert torch.equal(out.min(1).values, out.max(1).values)
    assert out.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert out.mean().item() == pytest.approx(1, abs=0.03)
    assert torch.equal(drop.eval()(torch.ones(2, 2, 3)), torch.ones(2, 2, 3))


def test_drop_path_rate_rises_linearly_with_depth():
    rates = [layer.drop_path.rate for layer in tiny_vit(drop_path_rate=0.3).layers]
    assert rates == pytest.approx([0, 0.15, 0.3])


def test_block_is_pre_norm_with_the_published_eps_and_exact_gelu():
    block = Block(ARCHITECTURES['sapiens_0.3b'])
    assert block.ln1.eps == block.ln2.eps == tiny_vit().ln1.eps == 1e-6
    assert block.ffn.layers[0][1].approximate == 'none'
