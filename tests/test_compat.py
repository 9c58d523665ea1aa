"""Each repair of the stack: what is seen without it, and that it is gone with it.

What the bare stack does is looked at in child processes, where nothing is repaired.
"""

import ctypes
import json
import math
import operator
import os
import pickle
import re
import socket
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from sapiens_plugin import compat
from sapiens_plugin.errors import InputError

if find_spec('mmpose') is None:
    pytest.skip('MMPose is not installed', allow_module_level=True)

TESTS = Path(__file__).parent

without_torchvision = pytest.mark.skipif(
    find_spec('torchvision') is not None, reason='torchvision is installed'
)
without_compiled_ops = pytest.mark.skipif(
    any(Path(find_spec('mmcv').origin).parent.glob('_ext.*')),
    reason='the full mmcv is installed',
)
without_gpu = pytest.mark.skipif(
    torch.accelerator.is_available(), reason='there is an accelerator'
)
on_linux = pytest.mark.skipif(
    not Path('/proc/self/maps').exists(), reason='/proc/self/maps is of Linux'
)


@pytest.fixture(scope='module', autouse=True)
def repaired():
    compat.apply()


@pytest.fixture(scope='module')
def job():
    import compat_toy_job  # imports MMEngine: not while tests are collected

    return compat_toy_job


@pytest.fixture(scope='module')
def finished_run(job, tmp_path_factory):
    """Work directory of two epochs of the toy job."""
    work_dir = tmp_path_factory.mktemp('run')
    job.toy_runner(work_dir).train()
    return work_dir


def _environment(*paths, **variables):
    path = os.pathsep.join(map(str, [*paths, TESTS.parent, TESTS / 'helpers']))
    return {**os.environ, 'PYTHONPATH': path, **variables}


def _python(code, *arguments, paths=()):
    """Run code in a fresh Python.

    Returns:
        Its last line of output, parsed as JSON; then all of its output.
    """
    result = subprocess.run(
        [sys.executable, '-c', code, *map(str, arguments)],
        env=_environment(*paths),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1]), result.stdout


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


# --- The bare stack -----------------------------------------------------------------

_SYMPTOMS = """
import importlib, json, os, sys
from pathlib import Path
import torch

checkpoint, hostile, weights = sys.argv[1:]
seen = {}

def look(name, action):
    try:
        seen[name] = repr(action())
    except Exception as error:
        seen[name] = f'{type(error).__name__}: {error}'

def distributed_model():
    from mmengine.model import MMDistributedDataParallel
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group('gloo', store=store, rank=0, world_size=1)
    return MMDistributedDataParallel(torch.nn.Linear(1, 1), device_ids=[0])

from mmengine.dist import init_dist
from mmengine.fileio import FileClient
from mmengine.optim import AmpOptimWrapper
from mmengine.runner.checkpoint import CheckpointLoader, load_from_http

look('mmcv_ops', lambda: importlib.import_module('mmcv.ops'))
look('torchvision', lambda: importlib.import_module('torchvision'))
look('resume', lambda: CheckpointLoader.load_checkpoint(checkpoint))
look('device', lambda: CheckpointLoader.load_checkpoint(weights, 'meta')['a'].device)
look('http', lambda: load_from_http(Path(hostile).as_uri()))
optimizer = torch.optim.SGD([torch.zeros(1)], 0.1)
look('amp', lambda: AmpOptimWrapper(optimizer=optimizer))
os.environ.update(RANK='0', LOCAL_RANK='0', WORLD_SIZE='1')
look('init_dist', lambda: init_dist('pytorch'))
look('device_ids', distributed_model)
FileClient('disk')
print(json.dumps(seen))
"""


@pytest.fixture(scope='module')
def symptoms(finished_run, tmp_path_factory):
    """What the bare stack answers to each thing that is repaired, and its output."""
    folder = tmp_path_factory.mktemp('bare')
    marker = folder / 'executed'
    torch.save(_Call(Path.touch, marker), folder / 'hostile.pth')
    torch.save({'a': torch.ones(1)}, folder / 'weights.pth')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('TORCH_HOME', str(folder))
        seen, seen['output'] = _python(
            _SYMPTOMS,
            finished_run / 'epoch_2.pth',
            folder / 'hostile.pth',
            folder / 'weights.pth',
        )
    seen['executed'] = marker.exists()
    return seen


class _Call:
    """Pickles as a call that is made when it is unpickled."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments, state)

    def __reduce__(self):
        return self.reduced


# --- Imports ------------------------------------------------------------------------


def test_a_second_call_changes_nothing():
    from mmengine import runner
    from mmengine.dist import utils
    from mmengine.hooks import CheckpointHook
    from mmengine.logging import HistoryBuffer
    from mmengine.model import MMDistributedDataParallel
    from mmengine.optim import AmpOptimWrapper, BaseOptimWrapper
    from torch.utils.data._utils import worker

    def state():
        return (
            runner.save_checkpoint,
            runner.checkpoint.load_state_dict,
            CheckpointHook._save_checkpoint_with_step,
            sys.modules['mmcv._ext'],
            utils._init_dist_pytorch,
            MMDistributedDataParallel.__init__,
            AmpOptimWrapper.load_state_dict,
            BaseOptimWrapper.load_state_dict,
            worker._worker_loop,
            HistoryBuffer.mean,
            set(map(str, torch.serialization.get_safe_globals())),
        )

    before = state()
    compat.apply()
    for repair in (
        compat.silence_known_warnings,
        compat.stand_in_for_mmcv_ops,
        compat.stand_in_for_torchvision,
        compat.allow_mmengine_checkpoints,
        compat.load_checkpoints_on_cpu,
        compat.release_loaded_weights,
        compat.release_resumed_checkpoints,
        compat.save_checkpoints_whole,
        compat.run_amp_on_cpu,
        compat.run_distributed_on_cpu,
        compat.repair_workers,
        compat.await_dead_workers,
        compat.leave_non_finite_out_of_means,
    ):
        repair()
    assert state() == before


@without_compiled_ops
def test_mmcv_ops_import_and_say_what_they_lack(symptoms):
    assert symptoms['mmcv_ops'] == "ModuleNotFoundError: No module named 'mmcv._ext'"

    from mmcv.ops import nms
    from mmcv.utils.ext_loader import check_ops_exist

    boxes, scores = torch.rand(3, 4), torch.rand(3)
    with pytest.raises(NotImplementedError, match=r"'nms' of mmcv.*install the full"):
        nms(boxes, scores, 0.5)
    with warnings.catch_warnings():  # pkgutil.find_loader
        warnings.simplefilter('ignore', DeprecationWarning)
        assert not check_ops_exist()


def test_what_the_project_uses_of_the_stack_imports():
    import mmdet.datasets.transforms
    import mmpose.apis
    import mmpose.engine
    import mmpose.models
    import mmpose.visualization
    from mmengine.visualization import TensorboardVisBackend

    assert mmdet.datasets.transforms.CutOut
    assert mmpose.models.TopdownPoseEstimator
    assert TensorboardVisBackend


@without_torchvision
def test_an_absent_torchvision_stays_absent(symptoms):
    assert symptoms['torchvision'] == (
        "ModuleNotFoundError: No module named 'torchvision'"
    )

    from mmpose.visualization.simcc_vis import ToPILImage

    assert 'torchvision' not in sys.modules
    assert find_spec('torchvision') is None
    with pytest.raises(NotImplementedError, match='needs torchvision'):
        ToPILImage()


_BROKEN_TORCHVISION = """
import torch
from torchvision import extension

for op in ('nms', 'qnms'):
    @torch.library.register_fake(f'torchvision::{op}')
    def _(dets, scores, iou_threshold):
        return dets.new_empty(0)

from torchvision import transforms
"""

_IMPORT_TORCHVISION = """
import json
from sapiens_plugin import compat

seen = []
try:
    import torchvision
except RuntimeError as error:
    seen.append(str(error))
compat.stand_in_for_torchvision()
from torchvision.transforms import ToPILImage
print(json.dumps([*seen, ToPILImage]))
"""


def _fake_package(folder, name, **files):
    package = folder / name
    package.mkdir(parents=True)
    for file, text in {'__init__': '', **files}.items():
        (package / f'{file}.py').write_text(text, encoding='utf-8')


def test_a_torchvision_for_cuda_imports_beside_a_torch_for_cpus(tmp_path):
    # Does at import what torchvision 0.28.0 does where its own library did not load.
    _fake_package(
        tmp_path,
        'torchvision',
        __init__=_BROKEN_TORCHVISION,
        extension='tool = "the real one"',
        transforms='import torchvision; ToPILImage = torchvision.extension.tool',
    )
    seen, _ = _python(_IMPORT_TORCHVISION, paths=[tmp_path])
    assert seen == ['operator torchvision::nms does not exist', 'the real one']


_NOTHING_IS_BROKEN = """
import json, sys
from sapiens_plugin import compat

compat.stand_in_for_mmcv_ops()
compat.stand_in_for_torchvision()
import mmcv._ext, torch, torchvision
print(json.dumps([
    mmcv._ext.nms,
    torchvision.__file__,
    hasattr(torch.ops.torchvision, 'nms'),
    'mmpose' in sys.modules,
]))
"""


def test_what_works_is_left_alone(tmp_path):
    _fake_package(tmp_path, 'mmcv', _ext='nms = "compiled"')
    _fake_package(tmp_path, 'torchvision')
    seen, _ = _python(_NOTHING_IS_BROKEN, paths=[tmp_path])
    init = tmp_path / 'torchvision' / '__init__.py'
    assert seen == ['compiled', str(init), False, False]


# --- Warnings -----------------------------------------------------------------------


def _ask_where_mmpose_is(patch):
    from mmengine.utils import get_installed_path

    patch.delitem(sys.modules, 'pkg_resources', raising=False)
    assert Path(get_installed_path('mmpose')).is_dir()


def _describe_coco(patch):
    from mmpose.datasets.datasets.utils import parse_pose_metainfo

    parse_pose_metainfo(dict(from_file='configs/_base_/datasets/coco.py'))


def _scale_losses(patch):
    from mmengine.optim import AmpOptimWrapper
    from mmengine.optim.optimizer import amp_optimizer_wrapper

    patch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    optimizer = torch.optim.SGD([torch.zeros(1)], 0.1)
    AmpOptimWrapper(optimizer=optimizer, loss_scale=dict(enabled=False))


def _wrap_a_model(patch):
    from mmengine.model import MMDistributedDataParallel

    dist = torch.distributed
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    try:
        MMDistributedDataParallel(nn.Linear(1, 1), broadcast_buffers=False)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    ('provoke', 'text'),
    [
        (_ask_where_mmpose_is, 'pkg_resources is deprecated'),
        (_describe_coco, 'A matched config file'),
        (_scale_losses, 'GradScaler(args...)` is deprecated'),
        (_wrap_a_model, '`broadcast_buffers` is deprecated'),
    ],
)
def test_harmless_warnings_are_silenced_and_no_others(provoke, text, monkeypatch):
    def provoked(*repairs):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter('always')
            for repair in repairs:
                repair()
            provoke(monkeypatch)
            warnings.warn(f'{text}, says another module', UserWarning, stacklevel=1)
        return sum(text in str(warning.message) for warning in seen)

    assert provoked() == 2
    assert provoked(compat.silence_known_warnings.__wrapped__) == 1


def test_mmengine_does_not_log_its_own_deprecations(symptoms, finished_run):
    assert '"FileClient" will be deprecated' in symptoms['output']
    (log,) = finished_run.glob('*/*.log')
    text = log.read_text(encoding='utf-8')
    assert 'Saving checkpoint' in text
    assert 'will be deprecated' not in text


# --- Checkpoints --------------------------------------------------------------------


def _load(path, map_location=None):
    from mmengine.runner.checkpoint import CheckpointLoader

    return CheckpointLoader.load_checkpoint(str(path), map_location)


def test_a_run_resumes_from_its_checkpoint(symptoms, job, finished_run, tmp_path):
    assert symptoms['resume'].startswith('UnpicklingError: Weights only load failed')

    runner = job.toy_runner(
        tmp_path, epochs=3, resume=True, load_from=str(finished_run / 'epoch_2.pth')
    )
    runner.train()
    assert (runner.epoch, runner.iter) == (3, 6)
    # Histories go on: two iterations before, four more now.
    assert len(runner.message_hub.get_scalar('train/loss').data[0]) == 6
    # The resumed data set counts as the same.
    (log,) = tmp_path.glob('*/*.log')
    assert 'dataset metainfo from the resumed' not in log.read_text(encoding='utf-8')
    # What it saves is read in turn, and names nothing of this plugin.
    assert b'sapiens_plugin' not in (tmp_path / 'epoch_3.pth').read_bytes()
    assert _load(tmp_path / 'epoch_3.pth')['meta']['iter'] == 6


@pytest.mark.parametrize('module', ['numpy.core', 'numpy._core'])
@pytest.mark.parametrize(
    'value',
    [
        np.float64(0.25),
        np.bool_(True),
        np.str_('neck'),
        np.arange(6, dtype=np.int64).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        np.array([1.5, 2.5], '>f8'),
        np.array(['nose', 'left_eye']),
        np.zeros(0, np.uint8),
        np.zeros((0, 3), np.uint8),
        np.array(7),
    ],
    ids=lambda value: f'{value.dtype}{list(value.shape)}',
)
def test_numpy_values_come_back_under_numpy_1_and_2(module, value, tmp_path):
    path = tmp_path / 'value.pth'
    torch.save({'value': value}, path, _use_new_zipfile_serialization=False)
    written = re.sub(rb'cnumpy\._?core\.', f'c{module}.'.encode(), path.read_bytes())
    assert f'c{module}.multiarray'.encode() in written
    path.write_bytes(written)

    loaded = _load(path)['value']
    unpickled = pickle.loads(pickle.dumps(value, protocol=2))
    assert isinstance(loaded, type(unpickled))
    assert loaded.dtype == unpickled.dtype
    np.testing.assert_array_equal(loaded, value)
    assert pickle.dumps(loaded) == pickle.dumps(unpickled)


def _object_array():
    return np.array([1, 'a'], dtype=object)


def _flagged_dtype():
    # All flags up: "values are pointers".
    state = (3, '<', None, None, None, -1, -1, 0x3F)
    return _Call(np.dtype, 'f8', False, True, state=state)


def _flagged_array():
    array = np.zeros(1)
    rebuild, arguments, _ = array.__reduce__()
    state = (1, (1,), _flagged_dtype(), False, array.tobytes())
    return _Call(rebuild, *arguments, state=state)


def _history_buffer():
    from mmengine.logging.history_buffer import HistoryBuffer

    return HistoryBuffer


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])
@pytest.mark.parametrize(
    ('make', 'wanted'),
    [
        (lambda m: _Call(os.system, f'echo > "{m}"'), f'{os.system.__module__}.system'),
        (lambda m: _Call(eval, f'open({str(m)!r}, "w")'), 'eval'),
        (lambda m: _Call(Path.touch, m), 'pathlib.Path'),
        (lambda m: _Call(getattr, _history_buffer(), '__init__'), 'builtins.getattr'),
        (lambda m: _Call(getattr, 'x', 'mean'), 'builtins.getattr'),
        (lambda m: _object_array(), 'numpy.dtype'),
    ],
    ids=['os.system', 'eval', 'Path.touch', 'method', 'owner', 'objects'],
)
def test_a_pickle_that_wants_more_is_refused(make, wanted, zipped, tmp_path):
    marker, path = tmp_path / 'executed', tmp_path / 'hostile.pth'
    content = {'state_dict': {'a': torch.ones(1)}, 'meta': make(marker)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)

    with pytest.raises(InputError) as caught:
        _load(path)
    message = str(caught.value)
    assert str(path) in message
    assert f' {wanted}' in message
    assert 'Nothing was executed' in message
    assert 'safetensors' in message
    assert not marker.exists()


def test_bytes_of_a_file_do_not_become_pointers(tmp_path):
    forged = _Call(np.ndarray, (1,), 'O', bytes(8))
    dtype, array = pickle.loads(pickle.dumps([_flagged_dtype(), forged]))
    assert dtype.hasobject  # a float64, and NumPy takes its bits for a pointer
    assert array.dtype.hasobject

    torch.save({'flagged': _flagged_array(), 'forged': forged}, tmp_path / 'forged.pth')
    flagged, forged = _load(tmp_path / 'forged.pth').values()
    assert flagged.dtype == np.float64
    assert not flagged.dtype.hasobject
    assert flagged.tolist() == [0.0]
    assert not forged.dtype.hasobject
    assert forged.size == 0


def test_an_array_takes_its_values_once():
    # A second time would free memory that others may look at.
    array = compat._Array()
    state = (1, (1,), compat._Dtype('f8'), False, bytes(8))
    array.__setstate__(state)
    with pytest.raises(pickle.UnpicklingError, match=r'GLOBAL numpy\.ndarray'):
        array.__setstate__(state)


def test_checkpoints_come_to_the_cpu_wherever_they_are_wanted(symptoms, finished_run):
    # 'meta' in the place of a GPU: Runner.resume asks for the device of the model.
    assert symptoms['device'] == "device(type='meta')"
    checkpoint = _load(finished_run / 'epoch_2.pth', map_location='meta')
    assert checkpoint['state_dict']['layer.weight'].device.type == 'cpu'


@on_linux
def test_checkpoints_are_mapped_and_not_copied(tmp_path):
    path = tmp_path / 'large.pth'
    torch.save({'state_dict': {'a': torch.ones(32 * 2**20)}}, path)  # 128 MiB
    before = _resident_mib()
    tensor = _load(path)['state_dict']['a']
    assert _is_mapped(path)
    assert _resident_mib() - before < 16
    assert tensor[-1] == 1

    torch.save({'a': tensor[:8].clone()}, path, _use_new_zipfile_serialization=False)
    assert _load(path)['a'].tolist() == [1] * 8


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
        _load(path)
    with pytest.raises(InputError, match='is a directory'):
        _load(tmp_path)


def test_a_torchscript_archive_is_shown_to_its_place(tmp_path):
    path = tmp_path / 'trace.pt2'
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning)
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), path)
    with pytest.raises(
        InputError, match=r'TorchScript.*backbone\.init_cfg\.checkpoint'
    ):
        _load(path)


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
    torch.save(_Call(Path.touch, marker), hostile)
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
    stock_load(wrapper, _load(path)['optimizer'])
    assert _is_mapped(path)
    expected = {
        name: [state[name].clone() for state in wrapper.optimizer.state.values()]
        for name in ('step', 'exp_avg', 'exp_avg_sq')
    }

    wrapper.load_state_dict(_load(path)['optimizer'])
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
    growth = _peak_growth_mib(wrapper.load_state_dict, _load(path))
    for own, saved in zip(
        wrapper.optimizer.state.values(), state['state'].values(), strict=True
    ):
        assert torch.equal(own['momentum_buffer'], saved['momentum_buffer'])
    return growth - 128


@on_linux
@pytest.mark.parametrize('fill', [_fill_model, _fill_optimizer])
def test_a_file_that_is_copied_is_in_memory_piece_by_piece(fill, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(compat, 'release_pages', lambda tensor: None)
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
    monkeypatch.setattr(compat, 'save_to_local', lambda _, path: seen.append(path))
    by_path, by_args, by_client = (tmp_path / f'{i}.pth' for i in range(3))
    _save({'a': 1}, by_path)
    _save({'a': 1}, by_args, backend_args=dict(backend='local'))
    _save({'a': 1}, by_client, file_client_args=dict(backend='disk'))
    with pytest.raises(ImportError, match='pavi'):
        _save({'a': 1}, 'pavi://model/epoch_1.pth')
    assert seen == [str(by_path)]
    assert _load(by_args) == _load(by_client) == {'a': 1}


def test_the_last_checkpoint_is_there_until_the_next_one_is(job, tmp_path, monkeypatch):
    from mmengine.hooks import CheckpointHook
    from mmengine.runner import find_latest_checkpoint

    hook = dict(type='CheckpointHook', interval=1, max_keep_ckpts=1)

    def run(work_dir, **settings):
        settings.setdefault('default_hooks', dict(checkpoint=hook))
        job.toy_runner(work_dir, **settings).train()

    def last_after_a_failure(work_dir):
        save = compat.save_to_local

        def fail_at_the_second(checkpoint, path):
            if Path(path).name == 'epoch_2.pth':
                raise InputError('the disk is full')
            save(checkpoint, path)

        with monkeypatch.context() as patch:
            patch.setattr(compat, 'save_to_local', fail_at_the_second)
            with pytest.raises(InputError, match='the disk is full'):
                run(work_dir)
        return Path(find_latest_checkpoint(work_dir))

    stock = CheckpointHook._save_checkpoint_with_step.__wrapped__
    with monkeypatch.context() as patch:
        patch.setattr(CheckpointHook, '_save_checkpoint_with_step', stock)
        assert not last_after_a_failure(tmp_path / 'stock').exists()

    work_dir = tmp_path / 'repaired'
    last = last_after_a_failure(work_dir)
    assert _load(last)['meta']['epoch'] == 1
    run(work_dir, resume=True, epochs=4)
    assert [path.name for path in work_dir.glob('*.pth')] == ['epoch_4.pth']
    assert find_latest_checkpoint(work_dir) == str(work_dir / 'epoch_4.pth')


# --- Running without a GPU ----------------------------------------------------------


@without_gpu
def test_mixed_precision_runs_on_the_cpu(symptoms, job, tmp_path):
    assert 'only available training on gpu' in symptoms['amp']

    amp = dict(wrapper='AmpOptimWrapper', default_scope='mmpose')
    runner = job.toy_runner(tmp_path, **amp)
    model = runner.train()
    assert model.seen_dtype == torch.bfloat16
    assert model.layer.weight.dtype == torch.float32

    # A GPU's scaler refuses an empty state, and starts afresh without one.
    checkpoint = tmp_path / 'epoch_2.pth'
    assert 'loss_scaler' not in _load(checkpoint)['optimizer']
    resumed = job.toy_runner(
        tmp_path / 'resumed', epochs=3, resume=True, load_from=str(checkpoint), **amp
    )
    resumed.train()
    assert resumed.iter == 6

    # A checkpoint of a GPU holds the state of its scaler.
    state = _load(checkpoint)['optimizer']
    state['loss_scaler'] = dict(
        scale=65536.0,
        growth_factor=2.0,
        backoff_factor=0.5,
        growth_interval=2000,
        _growth_tracker=2,
    )
    resumed.optim_wrapper.load_state_dict(state)
    steps = [s['step'].item() for s in resumed.optim_wrapper.optimizer.state.values()]
    assert steps == [4, 4]


_RANK = """
import json, sys
import torch
from sapiens_plugin import compat

compat.silence_known_warnings()
compat.run_distributed_on_cpu()
from compat_toy_job import ToyDataset, toy_runner

rank = int(sys.argv[2])
runner = toy_runner(sys.argv[1], launcher='pytorch', seed=rank)
runner.train()
trained = [p.tolist() for p in runner.model.parameters()]

gradients = []
for wrapper in (None, dict(find_unused_parameters=True)):
    model = runner.wrap_model(wrapper, runner.model.module)
    model.zero_grad()
    model(ToyDataset(rank).inputs)['loss'].backward()
    gradients.append([p.grad.tolist() for p in model.parameters()])
print(json.dumps(dict(
    backend=torch.distributed.get_backend(),
    ranks=torch.distributed.get_world_size(),
    trained=trained,
    gradients=gradients,
)))
"""


def _free_port():
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return listener.getsockname()[1]


@without_gpu
def test_two_processes_train_as_one_on_the_cpu(symptoms, tmp_path):
    assert '_cuda_setDevice' in symptoms['init_dist']
    assert 'device_ids' in symptoms['device_ids']

    port = str(_free_port())
    ranks = [
        subprocess.Popen(
            [sys.executable, '-c', _RANK, str(tmp_path), str(rank)],
            env=_environment(
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE='2',
                MASTER_ADDR='127.0.0.1',
                MASTER_PORT=port,
                OMP_NUM_THREADS='1',
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [rank.communicate(timeout=120) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    for rank, (_, errors) in zip(ranks, outputs, strict=True):
        assert rank.returncode == 0, errors
        assert 'deprecated' not in errors
    first, second = (json.loads(text.splitlines()[-1]) for text, _ in outputs)
    # The ranks saw different inputs: equal only if gradients were averaged.
    assert first == second
    assert (first['backend'], first['ranks']) == ('gloo', 2)


# --- Data-loading workers -----------------------------------------------------------


@without_compiled_ops
def test_spawned_workers_are_repaired(monkeypatch, capfd):
    from mmdet.datasets.transforms import CutOut
    from torch.utils.data._utils import worker

    def load():
        loader = DataLoader(
            [CutOut(n_holes=1, cutout_shape=(4, 4))],
            num_workers=1,
            multiprocessing_context='spawn',
            collate_fn=operator.itemgetter(0),
        )
        return [type(transform) for transform in loader]

    with monkeypatch.context() as patch:
        patch.setattr(worker, '_worker_loop', worker._worker_loop._loop)
        with pytest.raises(RuntimeError, match='died with exit code 1'):
            load()
    assert "No module named 'mmcv._ext'" in capfd.readouterr().err

    assert load() == [CutOut]


def test_a_config_is_formatted_once(monkeypatch):
    from mmengine.config import Config, config

    formatted = []

    def format_code(text, **_):
        formatted.append(text)
        return f'# formatted\n{text}', True

    monkeypatch.setattr(config, 'FormatCode', format_code)
    compat.format_configs_once.__wrapped__()
    cfg = Config(dict(a=1))
    assert cfg.pretty_text == cfg.pretty_text == '# formatted\na=1'
    assert len(formatted) == 1
    cfg.a = 2
    assert 'a=2' in cfg.pretty_text
    assert len(formatted) == 2


def test_means_in_the_log_leave_out_what_is_not_finite(tmp_path):
    from mmengine.logging import HistoryBuffer

    nan, inf = math.nan, math.inf
    buffer = HistoryBuffer([8.0, nan, 2.0, inf, 6.0, 3.0, nan], [2, 1, 1, 1, 3, 1, 1])
    assert buffer.mean(6) == buffer.statistics('mean', 6) == (2 + 6 + 3) / 5
    assert buffer.mean() == (8 + 2 + 6 + 3) / 7
    assert math.isnan(buffer.mean(1))
    assert math.isnan(buffer.max(7)) and math.isnan(buffer.current())  # as they are
    torch.save(buffer, tmp_path / 'buffer.pth')
    again = torch.load(tmp_path / 'buffer.pth', weights_only=True)
    assert again.statistics('mean', 6) == buffer.mean(6)
