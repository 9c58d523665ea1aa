import io
import pickle
import subprocess
import sys
import zipfile

import pytest
import torch
from torch import nn

from sapiens_plugin.core.vit.lifting import compare_backbone, load_backbone
from sapiens_plugin.core.vit.model import SapiensViT
from sapiens_plugin.core.weight_files.checkpoint import load_pickle, open_weights, sniff
from sapiens_plugin.core.weight_files.sampling import sample
from sapiens_plugin.errors import InputError

TINY = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)


def make_backbone(**kwargs) -> SapiensViT:
    vit = SapiensViT(TINY, **{'img_size': (64, 48), **kwargs})
    vit.init_weights()
    return vit


class MaskedAutoencoder(nn.Module):
    """What the published archives trace: names, buffers and all."""

    def __init__(self):
        super().__init__()
        self.data_preprocessor = nn.Module()
        for name in ('mean', 'std'):
            self.data_preprocessor.register_buffer(name, torch.rand(1, 3, 1, 1) + 1)
        self.backbone = make_backbone(
            img_size=(128, 128), patch_padding=0, with_cls_token=True
        )
        self.neck = nn.Module()
        self.neck.decoder_embed = nn.Linear(32, 16)
        self.neck.ln1 = nn.LayerNorm(16)  # easily taken for the backbone's

    def forward(self, x):
        x = (x - self.data_preprocessor.mean) / self.data_preprocessor.std
        return self.backbone(x)


@pytest.fixture(scope='module')
def mae() -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder().eval()


@pytest.fixture(scope='module')
def archive(mae, tmp_path_factory):
    path = tmp_path_factory.mktemp('weights') / 'tiny_torchscript.pt2'
    torch.jit.trace(mae, torch.rand(1, 3, 128, 128)).save(path)
    return path


def test_torchscript_tensors_are_read_bit_equal(archive, mae):
    assert sniff(archive) == 'torchscript'
    tensors = open_weights(archive)
    state = mae.state_dict()
    # Parameters that the traced function does not use are in the archive all the same.
    assert tensors.keys() == state.keys()
    for name, value in state.items():
        assert tensors[name].shape == tuple(value.shape)
        assert torch.equal(tensors[name].read(), value)


def test_a_stray_member_before_the_archive_does_no_harm(archive, mae, tmp_path):
    path = tmp_path / 'stray.pt2'
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(path, 'w') as new:
        new.writestr('elsewhere/note.txt', 'x')
        for info in old.infolist():
            new.writestr(info, old.read(info))
    assert open_weights(path).keys() == mae.state_dict().keys()


def test_torchscript_weights_are_lifted_to_another_input_size(archive, mae):
    vit = make_backbone()
    report = load_backbone(vit, archive)
    assert (report.source_grid, report.target_grid) == ((8, 8), (4, 3))
    source, target = mae.backbone.state_dict(), vit.state_dict()
    for name in target.keys() - {'pos_embed'}:
        assert torch.equal(target[name], source[name]), name
    grid = source['pos_embed'][:, 1:].reshape(1, 8, 8, 32).permute(0, 3, 1, 2)
    resized = nn.functional.interpolate(grid, size=(4, 3), mode='bicubic')
    assert torch.equal(
        target['pos_embed'], resized.permute(0, 2, 3, 1).reshape(1, 12, 32)
    )
    assert report.num_loaded == len(target)
    assert report.num_dropped == len(mae.state_dict()) - len(target)
    assert 'resized from 8×8 to 4×3' in str(report)


def test_the_cls_token_is_kept_where_the_model_has_one(archive, mae):
    vit = make_backbone(img_size=(128, 128), patch_padding=0, with_cls_token=True)
    load_backbone(vit, archive)
    for name, value in mae.backbone.state_dict().items():
        assert torch.equal(vit.state_dict()[name], value), name


def prefixed(state, prefix):
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize('form', ['training', 'clean', 'ddp', 'legacy', 'safetensors'])
def test_every_published_form_loads_alike(form, mae, tmp_path):
    state = mae.backbone.state_dict()
    path = tmp_path / 'weights.bin'  # the name says nothing
    if form == 'training':
        extra = {'head.final_layer.weight': torch.zeros(1)}
        torch.save({'state_dict': prefixed(state, 'backbone.') | extra}, path)
    elif form == 'clean':
        torch.save(state, path)
    elif form == 'ddp':
        torch.save({'model': prefixed(state, 'module.backbone.')}, path)
    elif form == 'legacy':
        torch.save(state, path, _use_new_zipfile_serialization=False)
    else:
        from safetensors.torch import save_file

        save_file(prefixed(state, 'backbone.'), path)
    vit = make_backbone()
    load_backbone(vit, path)
    assert torch.equal(vit.layers[1].attn.qkv.weight, state['layers.1.attn.qkv.weight'])
    assert torch.equal(vit.ln1.bias, state['ln1.bias'])


def test_positions_of_a_4_to_3_pose_model_are_resized_too(tmp_path):
    source = make_backbone(img_size=(256, 192))
    torch.save(source.state_dict(), tmp_path / 'pose.pth')
    report = load_backbone(make_backbone(), tmp_path / 'pose.pth')
    assert (report.source_grid, report.target_grid) == ((16, 12), (4, 3))


def test_half_precision_files_fill_float32_models(mae, tmp_path):
    state = {k: v.half() for k, v in mae.backbone.state_dict().items()}
    torch.save(state, tmp_path / 'half.pth')
    vit = make_backbone()
    load_backbone(vit, tmp_path / 'half.pth')
    assert vit.ln1.weight.dtype == vit.pos_embed.dtype == torch.float32
    assert torch.equal(
        vit.layers[0].ffn.layers[1].weight,
        state['layers.0.ffn.layers.1.weight'].float(),
    )


def edit(state, *, drop=(), add=None):
    return {k: v for k, v in state.items() if k not in drop} | (add or {})


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(drop=['ln1.weight', 'ln1.bias']), '2 missing.*: ln1.bias, ln1.weight'),
        (dict(drop=['pos_embed']), '1 missing.*: pos_embed'),
        (dict(add={'layers.0.gamma': torch.ones(1)}), '1 left over.*: layers.0.gamma'),
        (
            dict(add={'layers.0.ffn.layers.1.bias': torch.ones(31)}),
            r'1 of another shape: layers.0.ffn.layers.1.bias \(31,\) instead',
        ),
        (dict(add={'pos_embed': torch.ones(1, 24, 32)}), '23 patch positions'),
    ],
)
def test_a_backbone_that_does_not_fit_changes_nothing(change, message, mae, tmp_path):
    torch.save(edit(mae.backbone.state_dict(), **change), tmp_path / 'bad.pth')
    vit = make_backbone()
    before = {k: v.clone() for k, v in vit.state_dict().items()}
    with pytest.raises(InputError, match=message):
        load_backbone(vit, tmp_path / 'bad.pth')
    assert all(torch.equal(v, before[k]) for k, v in vit.state_dict().items())


def test_a_wrong_prefix_is_an_error_that_lists_names(mae, tmp_path):
    torch.save(prefixed(mae.backbone.state_dict(), 'encoder.'), tmp_path / 'odd.pth')
    with pytest.raises(
        InputError, match=r'missing.*and \d+ more.*left over.*encoder\.'
    ):
        load_backbone(make_backbone(), tmp_path / 'odd.pth')


def test_a_file_of_another_size_is_called_by_its_name(tmp_path):
    with torch.device('meta'):
        state = SapiensViT('sapiens_0.3b', img_size=(64, 64)).state_dict()
    state = {k: torch.zeros(()).expand(v.shape) for k, v in state.items()}
    torch.save(state, tmp_path / '0.3b.pth')
    with pytest.raises(
        InputError, match=r'holds sapiens_0.3b \(1024 dims, 24 layers\)'
    ):
        load_backbone(make_backbone(), tmp_path / '0.3b.pth')


def damaged(archive, kind) -> bytes:
    content = archive.read_bytes()
    if kind == 'half':
        return content[: len(content) // 2]
    if kind == 'a byte':
        # Somewhere inside the largest record, away from every header.
        with zipfile.ZipFile(archive) as file:
            info = max(file.infolist(), key=lambda i: i.file_size)
        at = info.header_offset + info.file_size // 2
        return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
    return kind


@pytest.mark.parametrize(
    'kind, message',
    [
        (b'', 'is empty'),
        (b'<!DOCTYPE html><title>Sign in</title>', 'is a web page'),
        (b'  <html><body>429</body></html>', 'is a web page'),
        (b'version https://git-lfs.github.com/spec/v1\n', 'Git LFS pointer'),
        (b'\x00' * 600, 'neither a TorchScript'),
        ('half', 'cut short'),
        ('a byte', 'damaged inside'),
    ],
)
def test_what_is_wrong_with_a_file_is_said(kind, message, archive, tmp_path):
    path = tmp_path / 'weights.pt2'
    path.write_bytes(damaged(archive, kind))
    with pytest.raises(InputError, match=message) as error:
        load_backbone(make_backbone(), path)
    assert str(path) in str(error.value)


def test_missing_files_and_directories_are_named(tmp_path):
    with pytest.raises(InputError, match='does not exist'):
        sniff(tmp_path / 'nothing.pth')
    with pytest.raises(InputError, match='is a directory'):
        sniff(tmp_path)


def test_other_zip_files_are_not_taken_for_weights(tmp_path):
    with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as file:
        file.writestr('weights.pth', b'1')
    with pytest.raises(InputError, match='not one that PyTorch wrote'):
        sniff(tmp_path / 'a.zip')


@pytest.mark.parametrize('cut', [0.3, 0.999])
def test_a_cut_safetensors_file_is_noticed(cut, mae, tmp_path):
    from safetensors.torch import save

    content = save(mae.backbone.state_dict())
    path = tmp_path / 'w.safetensors'
    path.write_bytes(content[: int(len(content) * cut)])
    with pytest.raises(InputError, match='cut short'):
        sniff(path)


class Bomb:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, 'w')


def test_a_pth_that_wants_code_is_refused_unrun(tmp_path):
    torch.save({'state_dict': Bomb(tmp_path / 'boom')}, tmp_path / 'hostile.pth')
    with pytest.raises(
        InputError, match=r'asks for \w*\.?open, .*Nothing was executed'
    ):
        load_pickle(tmp_path / 'hostile.pth')
    assert not (tmp_path / 'boom').exists()


def test_a_torchscript_archive_that_wants_code_is_refused_unrun(archive, tmp_path):
    path = tmp_path / 'hostile.pt2'
    payload = io.BytesIO()
    pickle.Pickler(payload, protocol=2).dump(Bomb(tmp_path / 'boom'))
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(path, 'w') as new:
        for info in old.infolist():
            is_tree = info.filename.endswith('/data.pkl')
            new.writestr(info, payload.getvalue() if is_tree else old.read(info))
    with pytest.raises(InputError, match=r'damaged inside: it names \w+.open'):
        open_weights(path)
    assert not (tmp_path / 'boom').exists()


def test_compressed_tensors_are_refused(archive, tmp_path):
    path = tmp_path / 'bomb.pt2'
    with zipfile.ZipFile(archive) as old:
        with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as new:
            for info in old.infolist():
                new.writestr(info.filename, old.read(info))
    with pytest.raises(InputError, match='never compresses'):
        open_weights(path)


@pytest.mark.skipif(sys.platform != 'linux', reason='reads ru_maxrss as KiB')
def test_lifting_takes_little_more_memory_than_the_model(tmp_path):
    """A 200 MB archive must not be held in memory beside the model it fills."""
    script = """
import resource, sys, torch
from sapiens_plugin.core.vit.lifting import compare_backbone, load_backbone
from sapiens_plugin.core.vit.model import SapiensViT
from sapiens_plugin.core.weight_files.sampling import sample
arch = dict(embed_dims=512, num_layers=16, num_heads=8, feedforward_channels=2048)
vit = SapiensViT(arch, img_size=(64, 48))
vit.init_weights()
if sys.argv[1] == 'write':
    class Wrapper(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = vit
        def forward(self, x):
            return self.backbone(x)
    torch.jit.trace(Wrapper().eval(), torch.rand(1, 3, 64, 48)).save(sys.argv[2])
else:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    load_backbone(vit, sys.argv[2])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    path = tmp_path / 'big.pt2'
    command = [sys.executable, '-c', script]
    subprocess.run([*command, 'write', str(path)], check=True, timeout=120)
    assert path.stat().st_size > 200e6
    answer = subprocess.run(
        [*command, 'read', str(path)], check=True, timeout=120, capture_output=True
    )
    extra_mib = int(answer.stdout) / 1024
    assert extra_mib < 40  # the largest tensor is 4 MiB


def test_importing_vit_brings_in_torch_alone():
    script = (
        'import sys, sapiens_plugin.core.vit.lifting; '
        "print([m for m in sys.modules if m.split('.')[0] in "
        "{'mmengine', 'mmcv', 'mmpose', 'mmdet', 'safetensors', 'cv2'}])"
    )
    answer = subprocess.run(
        [sys.executable, '-c', script], check=True, timeout=60, capture_output=True
    )
    assert answer.stdout.strip() == b'[]'


class Views(nn.Module):
    """Tensors that do not lie in their storages as they are."""

    def __init__(self):
        super().__init__()
        base = torch.rand(5000)
        self.register_buffer('part', base[1234:])
        self.register_buffer('turned', torch.rand(50, 60).t())
        self.register_buffer('narrow', torch.rand(3, 1000).half())
        self.register_buffer('single', torch.tensor(3.0))

    def forward(self, x):
        return x * self.single


def saved_as(kind, module, path):
    if kind == 'torchscript':
        torch.jit.trace(module, torch.rand(1)).save(path)
    elif kind == 'safetensors':
        from safetensors.torch import save_file

        state = {name: v.contiguous() for name, v in module.state_dict().items()}
        save_file(state, path)
    else:
        torch.save(module.state_dict(), path)
    return path


@pytest.mark.parametrize('kind', ['torchscript', 'pth', 'safetensors'])
def test_a_sample_is_that_of_the_whole_tensor(kind, tmp_path):
    module = Views()
    tensors = open_weights(saved_as(kind, module, tmp_path / 'weights'))
    for name, value in module.state_dict().items():
        assert torch.equal(tensors[name].sample(), sample(value)), name


def test_a_sample_of_an_archive_takes_little_of_it(archive, mae, monkeypatch):
    tensors = open_weights(archive)
    monkeypatch.setattr(zipfile.ZipFile, 'open', pytest.fail)
    for name, value in mae.state_dict().items():
        assert torch.equal(tensors[name].sample(), sample(value)), name


def test_a_backbone_is_compared_with_its_file(archive):
    vit = make_backbone()
    count, wrong = compare_backbone(vit, archive)
    assert 0 < len(wrong) <= count == len(vit.state_dict())
    load_backbone(vit, archive)
    assert compare_backbone(vit, archive) == (count, [])
    with torch.no_grad():
        vit.pos_embed[0, 3] += 1e-3
        vit.layers[1].ln1.bias[-1] += 1e-3
    assert compare_backbone(vit, archive)[1] == ['pos_embed', 'layers.1.ln1.bias']
