import contextlib
import errno
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sapiens_plugin.core.checkpoints import saving, sealed
from sapiens_plugin.core.checkpoints.loading import load_from_local
from sapiens_plugin.core.checkpoints.saving import (
    RESERVE,
    CheckpointNotWritten,
    save_to_local,
    to_the_last_byte,
    write_pointer,
)
from sapiens_plugin.core.checkpoints.sealed import verify
from sapiens_plugin.errors import InputError

on_linux = pytest.mark.skipif(sys.platform != 'linux', reason='needs Linux')
SMALL = {'state_dict': {'a': torch.zeros(1)}}
LARGE = {'state_dict': {'a': torch.ones(2**18)}}  # 1 MiB


@contextlib.contextmanager
def files_limited_to(size):
    import resource  # there is none on Windows

    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, unlimited[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)


@on_linux
def test_a_write_that_fails_midway_costs_no_checkpoint(tmp_path):
    path = tmp_path / 'epoch_1.pth'
    with files_limited_to(2**19):
        save_to_local(SMALL, path)
        with pytest.raises(CheckpointNotWritten, match='File too large') as caught:
            save_to_local(LARGE, path)
    assert caught.value.lacks is None
    assert [file.name for file in tmp_path.iterdir()] == ['epoch_1.pth']
    assert load_from_local(path)['state_dict']['a'].tolist() == [0]


def test_a_disk_that_fills_midway_is_named(tmp_path, monkeypatch):
    def fill_disk(checkpoint, file):
        file.write(memoryview(b'PK'))
        raise OSError(errno.ENOSPC, 'No space left on device')

    path = tmp_path / 'epoch_2.pth'
    path.write_bytes(b'as it was')
    monkeypatch.setattr(torch, 'save', fill_disk)
    with pytest.raises(CheckpointNotWritten) as caught:
        save_to_local(SMALL, path)
    assert caught.value.lacks == 0 and caught.value.path == path
    assert 'No space left on device' in str(caught.value)
    assert path.read_bytes() == b'as it was'
    assert list(tmp_path.iterdir()) == [path]


def test_room_is_looked_at_before_the_first_byte(tmp_path, monkeypatch):
    shared = torch.zeros(2_000_000)
    checkpoint = {
        'state_dict': {'a': torch.zeros(5_000_000), 'b': shared, 'c': shared[1:]},
        'optimizer': {'state': {0: {'exp_avg': torch.zeros(500_000)}}, 'groups': [{}]},
    }
    needed = 4 * 7_500_000
    room = dict(free=needed + RESERVE - 1)
    monkeypatch.setattr(
        saving.shutil, 'disk_usage', lambda folder: SimpleNamespace(**room)
    )
    path = tmp_path / 'new' / 'epoch_2.pth'
    with monkeypatch.context() as patch:
        patch.setattr(saving, 'save_sealed', None)  # is not called
        with pytest.raises(CheckpointNotWritten) as caught:
            save_to_local(checkpoint, path)
    message = str(caught.value)
    assert caught.value.lacks == 1
    assert f'{path} could not be written: No space left on device' in message
    assert 'needs 30.0 MB, and 268.4 MB are left free; there are 298.4 MB)' in message
    assert 'default_hooks.checkpoint.out_dir' in message and '--resume' in message
    with to_the_last_byte():
        save_to_local(checkpoint, path)
    with pytest.raises(CheckpointNotWritten):
        save_to_local(checkpoint, path)
    room['free'] += 1
    save_to_local(checkpoint, path)
    assert verify(path)


def refuse(*args, **kwargs):
    raise OSError(errno.EROFS, 'Read-only file system')


@pytest.mark.parametrize('step', ['mkdir', 'open', 'behind', 'fsync', 'replace'])
def test_a_directory_that_became_read_only_is_named(step, tmp_path, monkeypatch):
    path = tmp_path / 'iter_3.pth'
    save_to_local(SMALL, path)
    if step == 'open':
        monkeypatch.setattr(
            'sapiens_plugin.core.utils.whole_file.open', refuse, raising=False
        )
    elif step == 'behind':  # in another thread, while more is written
        monkeypatch.setattr(sealed, '_SYNC', 1)
        monkeypatch.setattr(sealed, 'sync', lambda file: None)
        monkeypatch.setattr('os.fsync', refuse)
    elif step == 'fsync':
        monkeypatch.setattr('os.fsync', refuse)
    else:
        monkeypatch.setattr(Path, step, refuse)
    with pytest.raises(CheckpointNotWritten, match='Read-only file system') as caught:
        save_to_local(LARGE, path)
    assert caught.value.lacks is None
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == [path]
    assert load_from_local(path)['state_dict']['a'].tolist() == [0]


def test_what_is_no_fault_of_the_disk_is_not_blamed_on_it(tmp_path):
    values = torch.ones(4)
    checkpoint = {'a': values, 'b': values.view(torch.int32)}
    with pytest.raises(RuntimeError, match='the same data as different types'):
        save_to_local(checkpoint, tmp_path / 'epoch_1.pth')
    assert not list(tmp_path.iterdir())


def test_the_pointer_is_the_old_one_or_the_new_one(tmp_path, monkeypatch):
    pointer = tmp_path / 'last_checkpoint'
    write_pointer(pointer, 'work/iter_1.pth')
    monkeypatch.setattr('os.fsync', refuse)
    with pytest.raises(CheckpointNotWritten, match=r'last_checkpoint.*Read-only'):
        write_pointer(pointer, 'work/iter_2.pth')
    assert pointer.read_text('utf-8') == 'work/iter_1.pth'
    assert list(tmp_path.iterdir()) == [pointer]


_SAVE_FOR_EVER = """
import sys, torch
from sapiens_plugin.core.checkpoints.saving import save_to_local
weights = {str(i): torch.full((2**20,), float(i)) for i in range(8)}  # 32 MiB
print('ready', flush=True)
for number in range(1, 10**6):
    save_to_local({'meta': {'iter': number}, 'state_dict': weights}, sys.argv[1])
    print(number, flush=True)
"""


def test_a_process_killed_inside_a_save_leaves_a_whole_file(tmp_path):
    path = tmp_path / 'iter_9.pth'
    part = path.with_name('iter_9.pth.part')
    killed_inside = 0
    for attempt in range(6):
        with subprocess.Popen(
            [sys.executable, '-c', _SAVE_FOR_EVER, str(path)],
            stdout=subprocess.PIPE,
            text=True,
        ) as child:
            try:
                assert child.stdout.readline() == 'ready\n'
                assert child.stdout.readline() == '1\n'
                deadline = time.monotonic() + 30
                while time.monotonic() < deadline and not _has(part, attempt * 2**22):
                    pass
            finally:
                child.kill()
        killed_inside += part.exists()
        checkpoint = load_from_local(path)
        assert checkpoint['meta']['iter'] >= 1
        for name, value in checkpoint['state_dict'].items():
            assert value.unique().tolist() == [float(name)]
        del checkpoint, value
        if killed_inside == 2:
            break
    assert killed_inside == 2


def _has(part, size):
    try:
        return part.stat().st_size > size
    except FileNotFoundError:
        return False


def test_something_else_than_a_checkpoint_is_named(tmp_path):
    torch.save([1, 2], tmp_path / 'list.pth')
    with pytest.raises(InputError, match=r'list\.pth holds a list'):
        load_from_local(tmp_path / 'list.pth')
