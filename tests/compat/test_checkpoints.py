"""Checkpoints: read and written whole, with little memory."""

import ctypes
import re
import warnings
from pathlib import Path

import pytest
import torch
from repairs import Call, load_checkpoint
from torch import nn

from sapiens_plugin.compat import checkpoints
from sapiens_plugin.errors import InputError

on_linux = pytest.mark.skipif(
    not Path('/proc/self/maps').exists(), reason='/proc/self/maps is of Linux'
)


def _is_mapped(path):
    return str(path) in Path('/proc/self/maps').read_text()


def _resident_mib(figure='VmRSS'):
    status = Path('/proc/self/status').read_text()
    return int(re.search(rf'{figure}:\s+(\d+)', status)[1]) / 1024


def _peak_growth_mib(action, *arguments):
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before must not serve again
    Path('/proc/self/clear_refs').write_text('5')  # the peak is now what is
    before = _resident_mib()
    action(*arguments)
    return _resident_mib('VmHWM') - before


def test_checkpoints_come_to_the_cpu_wherever_they_are_wanted(symptoms, finished_run):
    # 'meta' in the place of a GPU: Runner.resume asks for the device of the model.
    assert symptoms['device'] == "device(type='meta')"
    checkpoint = load_checkpoint(finished_run / 'epoch_2.pth', map_location='meta')
    assert checkpoint['state_dict']['layer.weight'].device.type == 'cpu'


@on_linux
def test_checkpoints_are_mapped_and_not_copied(tmp_path):
    path = tmp_path / 'large.pth'
    torch.save({'state_dict': {'a': torch.ones(32 * 2**20)}}, path)  # 128 MiB
    before = _resident_mib()
    tensor = load_checkpoint(path)['state_dict']['a']
    assert _is_mapped(path)
    assert _resident_mib() - before < 16
    assert tensor[-1] == 1

    torch.save({'a': tensor[:8].clone()}, path, _use_new_zipfile_serialization=False)
    assert load_checkpoint(path)['a'].tolist() == [1] * 8


@pytest.mark.parametrize(
    ('content', 'text'),
    [
        (None, 'does not exist'),
        (b'', 'is empty'),
        (b'<!DOCTYPE html><title>Sign in</title>', 'is a web page'),
        (b'PK\x03\x04' + bytes(500), 'is cut short'),
        (b'no weights', 'is not a weight file'),
    ],
)
def test_other_files_are_named_for_what_they_are(content, text, tmp_path):
    path = tmp_path / 'checkpoint.pth'
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=f'{re.escape(str(path))}.*{text}'):
        load_checkpoint(path)
    with pytest.raises(InputError, match='is a directory'):
        load_checkpoint(tmp_path)


def test_a_torchscript_archive_is_shown_to_its_place(tmp_path):
    path = tmp_path / 'trace.pt2'
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning)
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), path)
    with pytest.raises(
        InputError, match=r'TorchScript.*backbone\.init_cfg\.checkpoint'
    ):
        load_checkpoint(path)


def test_safetensors_fill_a_model(job, tmp_path):
    from mmengine.runner import load_checkpoint
    from safetensors.torch import save_file

    path = tmp_path / 'weights.safetensors'
    save_file({'layer.weight': torch.ones(2, 4), 'layer.bias': torch.ones(2)}, path)
    model = job.ToyModel()
    load_checkpoint(model, str(path), strict=True)
    assert model.layer.weight.unique().tolist() == [1]


def test_a_download_is_loaded_like_a_file(
    symptoms, finished_run, tmp_path, monkeypatch
):
    assert symptoms['executed']  # a pickle from a URL ran its code

    from mmengine.runner.checkpoint import load_from_http

    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    marker, hostile = tmp_path / 'executed', tmp_path / 'hostile.pth'
    torch.save(Call(Path.touch, marker), hostile)
    with pytest.raises(InputError, match='was refused'):
        load_from_http(hostile.as_uri())
    assert not marker.exists()

    url = (finished_run / 'epoch_2.pth').as_uri()
    loaded = load_from_http(url, map_location='meta')
    assert loaded['state_dict']['layer.weight'].device.type == 'cpu'
    assert (tmp_path / 'cache/hub/checkpoints/epoch_2.pth').is_file()
    with pytest.raises(InputError, match=r'could not be fetched.*put the file at'):
        load_from_http((tmp_path / 'missing.pth').as_uri())


@on_linux
def test_a_resumed_optimizer_lets_go_of_its_checkpoint(job, finished_run, tmp_path):
    path = finished_run / 'epoch_2.pth'
    runner = job.toy_runner(tmp_path, epochs=3)
    wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    assert not _is_mapped(path)

    stock_load = type(wrapper).load_state_dict.__wrapped__
    stock_load(wrapper, load_checkpoint(path)['optimizer'])
    assert _is_mapped(path)
    expected = {
        name: [state[name].clone() for state in wrapper.optimizer.state.values()]
        for name in ('step', 'exp_avg', 'exp_avg_sq')
    }

    wrapper.load_state_dict(load_checkpoint(path)['optimizer'])
    assert not _is_mapped(path)
    for name, values in expected.items():
        for state, value in zip(wrapper.optimizer.state.values(), values, strict=True):
            assert torch.equal(state[name], value)
    assert wrapper.base_param_settings['params'].tolist() == [0.0]


def _fill_model(path):
    """Load 8 × 16 MiB into a model whose memory counts already."""
    from mmengine.runner import load_checkpoint

    model = nn.Sequential(*[nn.Linear(2048, 2048, bias=False) for _ in range(8)])
    state = {name: torch.randn(2048, 2048) for name in model.state_dict()}
    torch.save({'state_dict': state}, path)
    growth = _peak_growth_mib(load_checkpoint, model, str(path))
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])
    assert not any(module._load_state_dict_pre_hooks for module in model.modules())
    return growth


def _fill_optimizer(path):
    """Load 8 × 16 MiB of moments; what they take in the end does not count."""
    from mmengine.optim import OptimWrapper

    wrapper = OptimWrapper(torch.optim.SGD([torch.zeros(2**22) for _ in range(8)], 0.1))
    state = wrapper.state_dict()
    state['state'] = {i: dict(momentum_buffer=torch.randn(2**22)) for i in range(8)}
    torch.save(state, path)
    growth = _peak_growth_mib(wrapper.load_state_dict, load_checkpoint(path))
    for own, saved in zip(
        wrapper.optimizer.state.values(), state['state'].values(), strict=True
    ):
        assert torch.equal(own['momentum_buffer'], saved['momentum_buffer'])
    return growth - 128


@on_linux
@pytest.mark.parametrize('fill', [_fill_model, _fill_optimizer])
def test_a_file_that_is_copied_is_in_memory_piece_by_piece(fill, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, 'release_pages', lambda tensor: None)
        assert 112 < fill(tmp_path / 'kept.pth') < 144
    assert fill(tmp_path / 'released.pth') < 32


def _save(checkpoint, path, **kwargs):
    from mmengine.runner import save_checkpoint

    save_checkpoint(checkpoint, str(path), **kwargs)


def _stock_save(checkpoint, path):
    from mmengine.runner import save_checkpoint

    save_checkpoint.__wrapped__(checkpoint, str(path))


@on_linux
def test_a_checkpoint_is_saved_without_a_copy_in_memory(tmp_path):
    checkpoint = {'state_dict': {'a': torch.randn(2**24)}}  # 64 MiB
    stock, own = tmp_path / 'stock.pth', tmp_path / 'new' / 'own.pth'
    assert _peak_growth_mib(_stock_save, checkpoint, stock) > 60
    assert _peak_growth_mib(_save, checkpoint, own) < 16
    assert own.read_bytes()[: stock.stat().st_size - 2] == stock.read_bytes()[:-2]
    assert [path.name for path in own.parent.iterdir()] == ['own.pth']


def test_other_backends_are_left_to_mmengine(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(checkpoints, 'save_to_local', lambda _, path: seen.append(path))
    by_path, by_args, by_client = (tmp_path / f'{i}.pth' for i in range(3))
    _save({'a': 1}, by_path)
    _save({'a': 1}, by_args, backend_args=dict(backend='local'))
    _save({'a': 1}, by_client, file_client_args=dict(backend='disk'))
    with pytest.raises(ImportError, match='pavi'):
        _save({'a': 1}, 'pavi://model/epoch_1.pth')
    assert seen == [str(by_path)]
    assert load_checkpoint(by_args) == load_checkpoint(by_client) == {'a': 1}


def test_the_last_checkpoint_is_there_until_the_next_one_is(job, tmp_path, monkeypatch):
    from mmengine.hooks import CheckpointHook
    from mmengine.runner import find_latest_checkpoint

    hook = dict(type='CheckpointHook', interval=1, max_keep_ckpts=1)

    def run(work_dir, **settings):
        settings.setdefault('default_hooks', dict(checkpoint=hook))
        job.toy_runner(work_dir, **settings).train()

    def last_after_a_failure(work_dir):
        save = checkpoints.save_to_local

        def fail_at_the_second(checkpoint, path):
            if Path(path).name == 'epoch_2.pth':
                raise InputError('the disk is full')
            save(checkpoint, path)

        with monkeypatch.context() as patch:
            patch.setattr(checkpoints, 'save_to_local', fail_at_the_second)
            with pytest.raises(InputError, match='the disk is full'):
                run(work_dir)
        return Path(find_latest_checkpoint(work_dir))

    stock = CheckpointHook._save_checkpoint_with_step.__wrapped__
    with monkeypatch.context() as patch:
        patch.setattr(CheckpointHook, '_save_checkpoint_with_step', stock)
        assert not last_after_a_failure(tmp_path / 'stock').exists()

    work_dir = tmp_path / 'repaired'
    last = last_after_a_failure(work_dir)
    assert load_checkpoint(last)['meta']['epoch'] == 1
    run(work_dir, resume=True, epochs=4)
    assert [path.name for path in work_dir.glob('*.pth')] == ['epoch_4.pth']
    assert find_latest_checkpoint(work_dir) == str(work_dir / 'epoch_4.pth')
