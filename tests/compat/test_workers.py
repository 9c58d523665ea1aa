"""Workers of a data loader: their deaths, and the signals that others send them."""

import copy
import json
import multiprocessing
import operator
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
from threading import Event, Thread
from unittest.mock import Mock

import psutil
import pytest
import torch
from mmengine.dataset import BaseDataset
from mmengine.runner import Runner
from repairs import without_compiled_ops
from torch.utils.data import DataLoader

import sapiens_plugin.registry  # noqa: F401  (repairs the loader)
from sapiens_plugin.compat import workers
from sapiens_plugin.compat.workers import DeadWorkers, forget_workers

posix = pytest.mark.skipif(sys.platform == 'win32', reason='signals of POSIX')
linux = pytest.mark.skipif(sys.platform != 'linux', reason='senders of signals')


class Numbers:
    """Sixteen samples; ``deaths`` maps an index to the signal that it dies of."""

    def __init__(self, deaths=()):
        self.deaths = dict(deaths)

    def __len__(self):
        return 16

    def __getitem__(self, index):
        if index in self.deaths:
            os.kill(os.getpid(), self.deaths[index])
            time.sleep(60)
        return torch.tensor(index)


def loader_of(dataset, **kwargs):
    return DataLoader(dataset, num_workers=2, prefetch_factor=1, **kwargs)


@posix
@pytest.mark.parametrize(
    ('signum', 'told'),
    [
        ('SIGKILL', r'-9 \(SIGKILL, as the system does when memory runs out\)'),
        ('SIGSEGV', r'-11 \(SIGSEGV, a library has crashed, or'),
    ],
)
def test_a_death_shows_at_once_when_a_batch_is_awaited(signum, told):
    iterator = iter(loader_of(Numbers({4: getattr(signal, signum)})))
    got = [int(next(iterator)) for _ in range(4)]
    started = time.monotonic()
    with pytest.raises(DeadWorkers, match=told):
        next(iterator)
    assert got == [0, 1, 2, 3]
    assert time.monotonic() - started < 4  # PyTorch looks every 5 s


@posix
def test_a_death_does_not_show_elsewhere():
    loader = loader_of(Numbers(), persistent_workers=True)
    iterator = iter(loader)
    next(iterator)
    dead = iterator._workers[1]
    dead.kill()
    dead.join()
    time.sleep(0.1)  # where PyTorch would have raised
    started = time.monotonic()
    with pytest.raises(DeadWorkers):
        for _ in iterator:
            pass
    assert time.monotonic() - started < 4
    del iterator
    forget_workers(loader)
    assert [int(value) for value in loader] == list(range(16))


@posix
def test_a_death_in_the_middle_of_a_message_does_not_hang():
    # More than the pipe holds: the worker dies while it is writing.
    class Large(Numbers):
        def __getitem__(self, index):
            return b'x' * 2**22

    iterator = iter(loader_of(Large(), collate_fn=lambda batch: batch[0]))
    next(iterator)
    time.sleep(0.3)
    iterator._workers[0].kill()
    iterator._workers[1].kill()
    started = time.monotonic()
    with pytest.raises(DeadWorkers):
        for _ in iterator:
            pass
    assert time.monotonic() - started < 30


@pytest.mark.parametrize('kind', [ValueError, ConnectionResetError, FileNotFoundError])
def test_an_error_of_the_data_set_is_no_death(kind, monkeypatch):
    class Broken(Numbers):
        def __getitem__(self, index):
            raise kind('a bug')

    monkeypatch.setattr(workers, '_raise_once_dead', pytest.fail)
    with pytest.raises(kind, match=r'Caught (?s:.*)a bug'):
        next(iter(loader_of(Broken())))


class Unfetched:
    """A sample whose shared memory cannot be fetched when it is unpickled."""

    def __init__(self, kind):
        self.kind = kind

    def __reduce__(self):
        return _fail_to_fetch, (self.kind,)


def _fail_to_fetch(kind):
    raise kind('its worker is gone')


class Unfetchable(Numbers):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def __getitem__(self, index):
        return Unfetched(self.kind)


TRANSPORT_ERRORS = [ConnectionResetError, EOFError, FileNotFoundError]


@posix
@pytest.mark.parametrize('kind', TRANSPORT_ERRORS)
def test_a_batch_that_cannot_be_fetched_is_a_death_that_shows_later(kind, monkeypatch):
    loader = loader_of(Unfetchable(kind), collate_fn=lambda batch: batch[0])
    iterator = iter(loader)
    looks = []

    def die(seconds):
        looks.append([worker.exitcode for worker in iterator._workers])
        iterator._workers[1].kill()
        iterator._workers[1].join()

    monkeypatch.setattr(workers.time, 'sleep', die)
    with pytest.raises(DeadWorkers, match=r'-9 \(SIGKILL') as caught:
        next(iterator)
    assert looks == [[None, None]]  # all were alive when the error came
    assert isinstance(caught.value.__context__, kind)


@pytest.mark.parametrize('kind', TRANSPORT_ERRORS)
def test_a_batch_that_living_workers_cannot_deliver_is_no_death(kind, monkeypatch):
    monkeypatch.setattr(workers, '_DEATH_SHOWS_S', 0.1)
    loader = loader_of(Unfetchable(kind), collate_fn=lambda batch: batch[0])
    with pytest.raises(kind, match='its worker is gone'):
        next(iter(loader))


@linux
def test_shared_memory_of_a_killed_worker_is_a_death():
    loader = loader_of(Numbers())
    iterator = iter(loader)
    next(iterator)
    while iterator._data_queue.empty():  # a batch lies there, its memory elsewhere
        time.sleep(0.01)
    for worker in iterator._workers:
        worker.kill()
        # Dead, but not found to be: that is up to whoever waits for a batch.
        os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(DeadWorkers, match='SIGKILL'):
        for _ in iterator:
            pass


@linux
def test_workers_leave_the_directory_of_their_parent(tmp_path, monkeypatch):
    config = multiprocessing.current_process()._config
    monkeypatch.setitem(config, 'tempdir', str(tmp_path))  # as with a fork server
    iterator = iter(loader_of(Numbers()))
    next(iterator)
    for worker in iterator._workers:
        worker.terminate()
        worker.join()
    assert tmp_path.is_dir()


@pytest.fixture
def pinning(monkeypatch):
    """Loaders with ``pin_memory=True`` have their thread, which calls this object."""
    for name, answer in (
        ('is_available', True),
        ('current_accelerator', torch.device('cuda')),
        ('current_device_index', 0),
        ('set_device_index', None),
    ):
        monkeypatch.setattr(torch.accelerator, name, lambda *_, answer=answer: answer)
    pin = Mock(side_effect=lambda data, device: data)
    monkeypatch.setattr('torch.utils.data._utils.pin_memory.pin_memory', pin)
    return pin


@posix
def test_a_death_shows_at_once_when_memory_is_pinned(pinning):
    iterator = iter(loader_of(Numbers({4: signal.SIGKILL}), pin_memory=True))
    got = [int(next(iterator)) for _ in range(4)]
    started = time.monotonic()
    with pytest.raises(DeadWorkers):
        next(iterator)
    assert got == [0, 1, 2, 3] and pinning.call_count >= 4
    assert time.monotonic() - started < 4


@posix
@pytest.mark.filterwarnings('ignore::pytest.PytestUnhandledThreadExceptionWarning')
def test_a_pinning_thread_that_a_death_ends_is_a_death(pinning):
    data = Unfetchable(ConnectionResetError)
    iterator = iter(loader_of(data, collate_fn=lambda batch: batch[0], pin_memory=True))
    iterator._pin_memory_thread.join(timeout=20)
    iterator._workers[1].kill()
    with pytest.raises(DeadWorkers):
        next(iterator)


@posix
def test_a_pinning_thread_in_the_middle_of_a_message_is_left(pinning):
    class Large(Numbers):
        def __getitem__(self, index):
            return b'x' * 2**22

    go_on = Event()
    pinning.side_effect = lambda data, device: go_on.wait() and data
    iterator = iter(
        loader_of(Large(), collate_fn=lambda batch: batch[0], pin_memory=True)
    )
    thread = iterator._pin_memory_thread
    time.sleep(0.3)  # the pipe is full
    for worker in iterator._workers:
        worker.kill()
        worker.join()
    go_on.set()
    while iterator._data_queue.empty():
        time.sleep(0.01)
    time.sleep(0.3)  # it is at the next message
    with pytest.raises(DeadWorkers):
        for _ in iterator:
            pass
    end = Thread(target=iterator._shutdown_workers, daemon=True)
    end.start()
    end.join(timeout=20)
    assert not end.is_alive()
    assert thread.is_alive()  # for good


@linux
def test_signals_of_strangers_do_not_end_workers():
    iterator = iter(loader_of(Numbers()))
    next(iterator)
    for worker in iterator._workers:
        for name in ('SIGINT', 'SIGTERM'):  # of another process than the parent
            code = f'import os, signal; os.kill({worker.pid}, signal.{name})'
            subprocess.run([sys.executable, '-c', code], check=True, timeout=60)
    time.sleep(0.2)
    assert [int(value) for value in iterator] == list(range(1, 16))


@linux
def test_the_parent_can_end_a_worker():
    iterator = iter(loader_of(Numbers()))
    next(iterator)
    worker = iterator._workers[0]
    worker.terminate()
    worker.join(timeout=20)
    assert worker.exitcode == 0


@linux
@pytest.mark.parametrize('parent_has_one', [False, True])
def test_workers_leave_no_files(parent_has_one, tmp_path_factory, monkeypatch):
    config = multiprocessing.current_process()._config
    folder = str(tmp_path_factory.mktemp('parent')) if parent_has_one else None
    monkeypatch.setitem(config, 'tempdir', folder)
    tmp_path = tmp_path_factory.mktemp('workers')
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    iterator = iter(loader_of(Numbers()))
    for _ in range(2):
        next(iterator)
    assert len(list(tmp_path.rglob('listener-*'))) == 2
    for worker in iterator._workers:
        worker.terminate()
        worker.join(timeout=20)
    assert list(tmp_path.iterdir()) == []


@linux
def test_workers_are_quiet_about_connections_that_break_off(
    tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    iterator = iter(loader_of(Numbers()))
    next(iterator)
    for path in tmp_path.rglob('listener-*'):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
    # A worker that hands over more has dealt with the one before.
    assert [int(value) for value in iterator] == list(range(1, 16))
    assert 'Traceback' not in capfd.readouterr().err


# A run whose workers have more to write than it will ever read.
RUN = """
import sys, time
import sapiens_plugin.registry
from torch.utils.data import DataLoader

class Large:
    def __len__(self):
        return 99
    def __getitem__(self, index):
        return b'x' * 2**20

iterator = iter(DataLoader(Large(), num_workers=2, collate_fn=lambda batch: batch[0]))
next(iterator)
print(*(worker.pid for worker in iterator._workers), flush=True)
time.sleep(600)
"""


@linux
def test_workers_do_not_outlive_a_killed_run():
    with subprocess.Popen(
        [sys.executable, '-c', RUN], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as run:
        pids = list(map(int, run.stdout.readline().split()))
        workers = [psutil.Process(pid) for pid in pids]
        time.sleep(0.3)  # the pipe is full
        run.kill()
    assert len(workers) == 2
    _, alive = psutil.wait_procs(workers, timeout=20)
    for worker in alive:
        worker.kill()
    assert not alive


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


@pytest.fixture
def numbered(tmp_path):
    """A data set of eight numbers, as annotations."""
    path = tmp_path / 'annotations.json'
    rows = [dict(number=i) for i in range(8)]
    path.write_text(json.dumps(dict(metainfo={}, data_list=rows)), encoding='utf-8')
    return BaseDataset(ann_file=str(path), data_prefix={})


@pytest.fixture
def hand_over(monkeypatch):
    """Take a data set to where a worker has it, without the seconds that one takes."""

    def take(dataset):
        with monkeypatch.context() as patch:
            patch.setattr(workers, 'get_spawning_popen', object)
            return pickle.loads(pickle.dumps(dataset))

    return take


def numbers(samples):
    return [sample['number'] for sample in samples]


def test_spawned_workers_share_the_annotations(numbered):
    loader = loader_of(
        numbered,
        multiprocessing_context='spawn',
        collate_fn=operator.itemgetter(0),
    )
    iterator = iter(loader)
    got = [next(iterator)['number']]
    start, end = numbered.data_address[-2:]
    last = numbered.data_bytes[start:end]
    last[last == 7] = 77
    assert got + numbers(iterator) == [0, 1, 2, 3, 4, 5, 6, 77]
    assert numbers(numbered)[-1] == 77


def test_annotations_are_moved_once(numbered, hand_over):
    assert numbers(hand_over(numbered)) == list(range(8))
    shared = numbered.data_bytes
    assert shared.base.is_shared()
    assert numbers(hand_over(numbered)) == list(range(8))
    assert numbered.data_bytes is shared


def test_annotations_that_cannot_be_shared_are_copied(numbered, hand_over, monkeypatch):
    full = Mock(side_effect=RuntimeError('No space left on device'))
    monkeypatch.setattr(torch.Tensor, 'share_memory_', full)
    assert numbers(hand_over(numbered)) == numbers(numbered) == list(range(8))
    assert full.called


@pytest.mark.parametrize(
    'change',
    [
        lambda dataset: dataset.get_subset_(3),
        lambda dataset: dataset.get_subset_([0, 1, 2]),
        lambda dataset: dataset.get_subset(3),
        copy.deepcopy,
        lambda dataset: pickle.loads(pickle.dumps(dataset)),
    ],
    ids=['first', 'some', 'subset', 'copy', 'pickle'],
)
def test_what_is_made_of_shared_annotations(numbered, hand_over, change):
    hand_over(numbered)
    changed = change(numbered) or numbered
    assert numbers(changed) == list(range(len(changed)))
    assert numbers(hand_over(changed)) == numbers(changed)


def test_data_sets_without_serialized_annotations_are_as_before(numbered, hand_over):
    lists = BaseDataset(numbered.ann_file, data_prefix={}, serialize_data=False)
    assert numbers(hand_over(lists)) == list(range(8))
    lazy = BaseDataset(numbered.ann_file, data_prefix={}, lazy_init=True)
    assert numbers(hand_over(lazy)) == list(range(8))


@pytest.mark.parametrize('count', [{}, {'num_workers': 0}, {'num_workers': 1}])
def test_options_of_workers_are_for_workers(count):
    options = dict(
        persistent_workers=True,
        prefetch_factor=3,
        timeout=30,
        multiprocessing_context='spawn',
    )
    config = dict(dataset=Numbers(), sampler=dict(type='DefaultSampler'), batch_size=4)
    config |= options | count
    given = dict(config)
    loader = Runner.build_dataloader(config)
    assert config == given
    if count.get('num_workers'):
        assert loader.persistent_workers and loader.prefetch_factor == 3
    else:
        assert sorted(int(n) for batch in loader for n in batch) == list(range(16))
