import warnings
import zipfile
from dataclasses import replace

import pytest
import torch

from sapiens_plugin.core.vit.architectures import ARCHITECTURES, Architecture
from sapiens_plugin.errors import InputError
from sapiens_plugin.workbench.demo.stand_in import make_stand_in, sincos_pos_embed

ARCH = Architecture(embed_dims=32, num_layers=2, num_heads=4, feedforward_channels=64)


def load(path) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning)
        return torch.jit.load(path)


@pytest.fixture(scope='module')
def archive(tmp_path_factory):
    path = tmp_path_factory.mktemp('weights') / 'tiny.pt2'
    make_stand_in(path, arch=ARCH, img_size=64, decoder_dims=32, decoder_layers=3)
    return path


def published_names(num_layers: int, decoder_layers: int) -> set[str]:
    def with_parameters(*modules: str) -> set[str]:
        return {f'{m}.{p}' for m in modules for p in ('weight', 'bias')}

    def block(prefix: str) -> set[str]:
        modules = (
            'ln1',
            'ln2',
            'attn.qkv',
            'attn.proj',
            'ffn.layers.0.0',
            'ffn.layers.1',
        )
        return with_parameters(*(f'{prefix}.{m}' for m in modules))

    names = {'backbone.cls_token', 'backbone.pos_embed'}
    names |= {'neck.mask_token', 'neck.decoder_pos_embed'}
    names |= {'data_preprocessor.mean', 'data_preprocessor.std'}
    names |= with_parameters('backbone.patch_embed.projection', 'backbone.ln1')
    names |= with_parameters('neck.decoder_embed', 'neck.ln1', 'neck.decoder_pred')
    for i in range(num_layers):
        names |= block(f'backbone.layers.{i}')
    for i in range(decoder_layers):
        names |= block(f'neck.decoder_blocks.{i}')
    return names


def test_names_and_shapes_are_the_published_ones(archive):
    state = load(archive).state_dict()
    assert set(state) == published_names(num_layers=2, decoder_layers=3)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert shapes['backbone.cls_token'] == (1, 1, 32)
    assert shapes['backbone.pos_embed'] == (1, 17, 32)
    assert shapes['backbone.patch_embed.projection.weight'] == (32, 3, 16, 16)
    assert shapes['backbone.layers.1.attn.qkv.weight'] == (96, 32)
    assert shapes['backbone.layers.1.ffn.layers.0.0.weight'] == (64, 32)
    assert shapes['neck.decoder_pos_embed'] == (1, 17, 32)
    assert shapes['data_preprocessor.mean'] == (3, 1, 1)


def test_published_size_has_the_published_counts():
    """486 backbone, 104 neck and 2 other tensors make the 592 of the 1B file."""
    names = published_names(ARCHITECTURES['sapiens_1b'].num_layers, decoder_layers=8)
    counts = [
        sum(name.startswith(prefix) for name in names)
        for prefix in ('backbone.', 'neck.', 'data_preprocessor.')
    ]
    assert counts == [486, 104, 2] and len(names) == 592


def test_decoder_has_the_published_size(tmp_path):
    """28.5 M parameters behind an encoder of 1,536 dims, a grid of 64×64."""
    arch = replace(ARCHITECTURES['sapiens_1b'], num_layers=1, feedforward_channels=64)
    make_stand_in(tmp_path / 'wide.pt2', arch=arch)
    state = load(tmp_path / 'wide.pt2').state_dict()
    neck = [t.numel() for name, t in state.items() if name.startswith('neck.')]
    assert len(neck) == 104 and sum(neck) == 28_499_200


def test_runs_at_its_own_size_only(archive):
    module = load(archive)
    (features,) = module(torch.randn(1, 3, 64, 64))
    assert features.shape == (1, 32, 4, 4)
    assert features.std() > 0.1
    with pytest.raises(RuntimeError, match='must match the size'):
        module(torch.randn(1, 3, 96, 64))


def test_features_are_normalised_and_depend_on_the_cls_token(archive):
    module, images = load(archive), torch.randn(1, 3, 64, 64)
    (before,) = module(images)
    torch.testing.assert_close(before.mean(1), torch.zeros(1, 4, 4), atol=1e-5, rtol=0)
    with torch.no_grad():
        module.backbone.cls_token.normal_()
    (after,) = module(images)
    assert not torch.allclose(before, after, atol=1e-4)


def test_patches_are_cut_without_padding(archive):
    """The pixels of one patch reach attention through that patch alone."""
    state = load(archive).state_dict()
    module = load(archive)
    with torch.no_grad():
        for i in range(2):
            for part in ('attn.proj', 'ffn.layers.1'):
                block = dict(module.named_parameters())
                for kind in ('weight', 'bias'):
                    block[f'backbone.layers.{i}.{part}.{kind}'].zero_()
    images = torch.randn(1, 3, 64, 64)
    (features,) = module(images)
    projected = torch.nn.functional.conv2d(
        images,
        state['backbone.patch_embed.projection.weight'],
        state['backbone.patch_embed.projection.bias'],
        stride=16,
    )
    positions = state['backbone.pos_embed'][:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    tokens = (projected + positions).permute(0, 2, 3, 1)
    expected = torch.nn.functional.layer_norm(tokens, (32,), eps=1e-6)
    torch.testing.assert_close(features, expected.permute(0, 3, 1, 2))


def test_seed_fixes_the_weights_and_nothing_else(tmp_path):
    def weights(name: str, seed: int) -> torch.Tensor:
        path = tmp_path / f'{name}.pt2'
        make_stand_in(
            path, arch=ARCH, img_size=32, decoder_dims=16, decoder_layers=1, seed=seed
        )
        return load(path).state_dict()['backbone.layers.0.attn.qkv.weight']

    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    first = weights('first', 0)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first, weights('again', 0))
    assert not torch.equal(first, weights('other', 1))


def test_is_an_archive_of_uncompressed_tensors_alone_in_its_folder(archive):
    assert [file.name for file in archive.parent.iterdir()] == ['tiny.pt2']
    with zipfile.ZipFile(archive) as file:
        assert any(name.endswith('/data.pkl') for name in file.namelist())
        assert any('/code/__torch__' in name for name in file.namelist())
        tensors = [i for i in file.infolist() if i.filename.split('/')[1] == 'data']
        assert {tensor.compress_type for tensor in tensors} == {zipfile.ZIP_STORED}


def test_tracing_warns_of_nothing(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        make_stand_in(
            tmp_path / 'x.pt2',
            arch=ARCH,
            img_size=32,
            decoder_dims=16,
            decoder_layers=1,
        )


def test_impossible_arguments(tmp_path):
    with pytest.raises(InputError, match='100'):
        make_stand_in(tmp_path / 'x.pt2', arch=ARCH, img_size=100)
    with pytest.raises(InputError, match='sapiens_9b'):
        make_stand_in(tmp_path / 'x.pt2', arch='sapiens_9b')
    assert list(tmp_path.iterdir()) == []


def test_positions_are_apart_and_smooth():
    table = sincos_pos_embed(64, 8)
    assert table.shape == (1, 65, 64)
    assert (table[0, 0] == 0).all()
    grid = table[0, 1:].unflatten(0, (8, 8))
    distance = torch.cdist(grid.flatten(0, 1), grid.flatten(0, 1))
    assert (distance + torch.eye(64) > 0.5).all()
    # One patch to the right changes one half of the features, one down the other half.
    assert (grid[:, 1:, 32:] == grid[:, :-1, 32:]).all()
    assert (grid[1:, :, :32] == grid[:-1, :, :32]).all()
