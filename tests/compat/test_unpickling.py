"""What a checkpoint may name."""

import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from repairs import Call, load_checkpoint

from sapiens_plugin.compat import unpickling
from sapiens_plugin.errors import InputError

# Made by tests/helpers/compat_toy_job.py under other versions of Python and NumPy.
WRITTEN_ELSEWHERE = sorted(Path(__file__).with_name('checkpoints').glob('*.pth'))


def test_checkpoints_from_elsewhere_are_of_several_versions():
    numpy = {re.search(r'numpy(\d)', path.name)[1] for path in WRITTEN_ELSEWHERE}
    assert numpy == {'1', '2'}
    written = {path: path.read_bytes() for path in WRITTEN_ELSEWHERE}
    old = {path for path, content in written.items() if b'numpy.core' in content}
    assert old == {path for path in written if 'numpy1' in path.name}


@pytest.mark.parametrize(
    'path', [None, *WRITTEN_ELSEWHERE], ids=lambda path: path.stem if path else 'own'
)
def test_a_run_resumes_from_its_checkpoint(symptoms, job, finished_run, tmp_path, path):
    assert symptoms['resume'].startswith('UnpicklingError: Weights only load failed')

    path = path or finished_run / 'epoch_2.pth'
    runner = job.toy_runner(tmp_path, epochs=3, resume=True, load_from=str(path))
    runner.train()
    assert (runner.epoch, runner.iter) == (3, 6)
    # Histories go on: two iterations before, four more now.
    assert len(runner.message_hub.get_scalar('train/loss').data[0]) == 6
    # The resumed data set counts as the same.
    (log,) = tmp_path.glob('*/*.log')
    assert 'dataset metainfo from the resumed' not in log.read_text(encoding='utf-8')
    # What it saves is read in turn, and names nothing of this plugin.
    assert b'sapiens_plugin' not in (tmp_path / 'epoch_3.pth').read_bytes()
    assert load_checkpoint(tmp_path / 'epoch_3.pth')['meta']['iter'] == 6


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

    loaded = load_checkpoint(path)['value']
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
    return Call(np.dtype, 'f8', False, True, state=state)


def _flagged_array():
    array = np.zeros(1)
    rebuild, arguments, _ = array.__reduce__()
    state = (1, (1,), _flagged_dtype(), False, array.tobytes())
    return Call(rebuild, *arguments, state=state)


def _history_buffer():
    from mmengine.logging.history_buffer import HistoryBuffer

    return HistoryBuffer


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])
@pytest.mark.parametrize(
    ('make', 'wanted'),
    [
        (lambda m: Call(os.system, f'echo > "{m}"'), f'{os.system.__module__}.system'),
        (lambda m: Call(eval, f'open({str(m)!r}, "w")'), 'eval'),
        (lambda m: Call(Path.touch, m), f'{Path.__module__}.Path'),
        (lambda m: Call(getattr, _history_buffer(), '__init__'), 'builtins.getattr'),
        (lambda m: Call(getattr, 'x', 'mean'), 'builtins.getattr'),
        (lambda m: _object_array(), 'numpy.dtype'),
    ],
    ids=['os.system', 'eval', 'Path.touch', 'method', 'owner', 'objects'],
)
def test_a_pickle_that_wants_more_is_refused(make, wanted, zipped, tmp_path):
    marker, path = tmp_path / 'executed', tmp_path / 'hostile.pth'
    content = {'state_dict': {'a': torch.ones(1)}, 'meta': make(marker)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)

    with pytest.raises(InputError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert str(path) in message
    assert f' {wanted}' in message
    assert 'Nothing was executed' in message
    assert 'safetensors' in message
    assert not marker.exists()


def test_bytes_of_a_file_do_not_become_pointers(tmp_path):
    forged = Call(np.ndarray, (1,), 'O', bytes(8))
    dtype, array = pickle.loads(pickle.dumps([_flagged_dtype(), forged]))
    assert dtype.hasobject  # a float64, and NumPy takes its bits for a pointer
    assert array.dtype.hasobject

    torch.save({'flagged': _flagged_array(), 'forged': forged}, tmp_path / 'forged.pth')
    flagged, forged = load_checkpoint(tmp_path / 'forged.pth').values()
    assert flagged.dtype == np.float64
    assert not flagged.dtype.hasobject
    assert flagged.tolist() == [0.0]
    assert not forged.dtype.hasobject
    assert forged.size == 0


def test_an_array_takes_its_values_once():
    # A second time would free memory that others may look at.
    array = unpickling._Array()
    state = (1, (1,), unpickling._Dtype('f8'), False, bytes(8))
    array.__setstate__(state)
    with pytest.raises(pickle.UnpicklingError, match=r'GLOBAL numpy\.ndarray'):
        array.__setstate__(state)
