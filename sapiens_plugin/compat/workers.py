"""The processes of a data loader: how they die, and whose signals they heed."""

import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from functools import cache, wraps
from multiprocessing.context import get_spawning_popen
from threading import Thread

import torch
from torch.utils.data import DataLoader, dataloader
from torch.utils.data._utils import signal_handling, worker

# What most often is behind a signal that ended a worker.
_CAUSES = dict(
    SIGKILL='as the system does when memory runs out',
    SIGBUS='shared memory, /dev/shm, is full',
    SIGSEGV='a library has crashed, or it has touched the weights of a streamed model, '
    'which it does not have',
)
# Options of a DataLoader that it takes only with workers.
_OF_WORKERS = {
    'persistent_workers',
    'prefetch_factor',
    'multiprocessing_context',
    'timeout',
}
_DEATH_SHOWS_S = 5.0  # a system short of memory takes its time to bury a process
_awaited = None  # the iterator of the loader whose batch the run is waiting for


@cache
def repair_workers(repair: Callable[[], None]) -> None:
    """Repair the stack in data-loading workers, too, and keep signals from them.

    Symptom:
        On Windows, with ``mmdet`` transforms in the pipeline: DataLoader worker exited
        unexpectedly, and above it: No module named 'mmcv._ext'. Elsewhere, Ctrl-C or
        SLURM's SIGTERM ends the workers, and with them a run that meant to finish its
        step. After a ``kill -9`` of the run, its workers stay.

    Cause:
        Where processes are spawned and not forked, a worker is a fresh Python that
        imports the data set's modules while it unpickles it, before any code of ours.
        Signals go to all processes of a terminal or a job. A worker that sees its
        parent gone waits for its last batch to be read.

    Cure:
        The function that a worker runs is unpickled before its arguments are. The one
        put in its place repairs the stack when that happens, and leaves signals to
        the parent (:func:`heed_parent_alone`).

    Args:
        repair: What repairs the stack; a function that can be pickled.
    """
    worker._worker_loop = _WorkerLoop(worker._worker_loop, repair)


class _WorkerLoop:
    """PyTorch's loop of a data-loading worker; to unpickle it repairs the stack."""

    def __init__(self, loop: Callable, repair: Callable[[], None]):
        self._loop = loop
        self._repair = repair

    def __call__(self, *args) -> None:
        heed_parent_alone()
        self._loop(*args)

    def __reduce__(self) -> tuple:
        return _repaired_worker_loop, (self._repair,)


def _repaired_worker_loop(repair: Callable[[], None]) -> Callable:
    repair()
    return worker._worker_loop


@cache
def share_annotations() -> None:
    """Share annotations with workers that are spawned, too.

    Symptom:
        On Windows COCO's annotations take 0.36 GB of every worker.

    Cause:
        MMEngine has them in one array, which is pickled for each.

    Cure:
        The first one's start moves it to shared memory, and workers are told where it
        is. Where that is full (Docker's ``/dev/shm``), they get copies.
    """
    from mmengine.dataset import BaseDataset

    BaseDataset.__getstate__ = _state_for_workers
    BaseDataset.__setstate__ = _set_state


def _state_for_workers(self) -> dict:
    annotations = vars(self).get('data_bytes')
    if annotations is None or get_spawning_popen() is None:
        return vars(self)
    if not isinstance(annotations.base, torch.Tensor):
        try:
            shared = torch.from_numpy(annotations).share_memory_()
        except RuntimeError:
            return vars(self)
        self.data_bytes = shared.numpy()
    return vars(self) | dict(data_bytes=self.data_bytes.base)


def _set_state(self, state: dict) -> None:
    vars(self).update(state)
    if isinstance(state.get('data_bytes'), torch.Tensor):
        self.data_bytes = self.data_bytes.numpy()


@cache
def await_dead_workers() -> None:
    """Tell of a dead data-loading worker where its batch is awaited, and only there.

    Symptom:
        The system kills a worker for memory, and the run ends with a RuntimeError out
        of any line whatever: in the middle of an optimizer step, or of a checkpoint.

    Cause:
        PyTorch's handler for the end of child processes raises in whatever the main
        thread is doing.

    Cure:
        It raises while a batch is awaited. What dies at another time is noticed when
        the next one is, and :class:`DeadWorkers` tells exit codes.
    """
    signal_handling._error_if_any_worker_fails = raise_if_dead
    iterator = dataloader._MultiProcessingDataLoaderIter
    iterator._get_data = awaiting(iterator._get_data)


@cache
def load_without_workers() -> None:
    """Leave out a data loader's options of workers where it has none.

    Symptom:
        ``num_workers=0`` ends with: persistent_workers option needs num_workers > 0.

    Cause:
        PyTorch refuses options that say something of workers when there are none, and
        in a config each option comes from another place.

    Cure:
        ``Runner.build_dataloader`` does not hand them on.
    """
    from mmengine.runner import Runner

    build_dataloader = Runner.build_dataloader

    @wraps(build_dataloader)
    def build(dataloader: DataLoader | dict, *args, **kwargs) -> DataLoader:
        if isinstance(dataloader, dict) and not dataloader.get('num_workers'):
            dataloader = {k: v for k, v in dataloader.items() if k not in _OF_WORKERS}
        return build_dataloader(dataloader, *args, **kwargs)

    Runner.build_dataloader = staticmethod(build)


class DeadWorkers(RuntimeError):
    """Workers of a data loader have died.

    Args:
        exit_codes: Theirs; negative for signals, as in ``subprocess``.
    """

    def __init__(self, exit_codes: list[int]):
        codes = ', '.join(map(_describe, sorted(set(exit_codes))))
        super().__init__(f'A data-loading worker has died with exit code {codes}.')


def _describe(exit_code: int) -> str:
    if exit_code >= 0:
        return str(exit_code)
    names = {each.value: each.name for each in signal.Signals}
    name = names.get(-exit_code, 'a signal')
    cause = f', {_CAUSES[name]}' if name in _CAUSES else ''
    return f'{exit_code} ({name}{cause})'


def forget_workers(loader: DataLoader) -> None:
    """Have a loader start new workers, after :class:`DeadWorkers`."""
    loader._iterator = None


def awaiting(get_data: Callable) -> Callable:
    """Wrap a loader's wait for a batch so that it raises :class:`DeadWorkers`."""

    @wraps(get_data)
    def wait(iterator):
        global _awaited
        _awaited = iterator
        try:
            raise_if_dead()
            return get_data(iterator)
        except (RuntimeError, OSError, EOFError):
            # Memory that a worker shares is fetched from it, and its sockets close
            # before its end shows. Where a thread pins memory, it is that thread which
            # fails. What a data set raises comes as data, not here.
            _raise_once_dead()
            raise
        finally:
            _awaited = None

    return wait


def raise_if_dead() -> None:
    """Raise if a batch is awaited from a loader of which a worker is dead.

    Raises:
        DeadWorkers: One is.
    """
    if _awaited is None:
        return
    codes = [worker.exitcode for worker in _awaited._workers]
    # Those of an iterable data set leave with 0 when they have nothing left.
    dead = [code for code in codes if code]
    if dead:
        _leave_pinning_thread(_awaited)
        raise DeadWorkers(dead)


def _leave_pinning_thread(iterator) -> None:
    """Have the end of the other workers not wait for the thread that pins memory.

    It may be reading half a message whose other half is never to come.
    """
    if vars(iterator).pop('_pin_memory_thread', None):
        iterator._pin_memory_thread_done_event.set()


def _raise_once_dead() -> None:
    deadline = time.monotonic() + _DEATH_SHOWS_S
    raise_if_dead()
    while time.monotonic() < deadline:
        time.sleep(0.02)
        raise_if_dead()


def heed_parent_alone() -> None:
    """Have this process, a worker, ended by its parent or its parent's end only.

    Ctrl-C goes to all processes of a terminal, and SLURM's SIGTERM to all of a job.
    Workers are needed for the step that the run finishes then. Of connections that
    break off with the parent's end they say nothing.
    """
    sys.excepthook = _without_lost_connections(sys.excepthook)
    for name in ('SIGINT', 'SIGBREAK'):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if sys.platform == 'linux':  # elsewhere there is no telling who has sent a signal
        parent = multiprocessing.parent_process().pid
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        # For the sockets by which shared memory is handed over: a directory of its own,
        # which it can remove, not the parent's, which others need.
        multiprocessing.current_process()._config.pop('tempdir', None)
        Thread(target=_leave_with, args=(parent,), daemon=True).start()


def _without_lost_connections(excepthook: Callable) -> Callable:
    """Keep quiet about a parent that goes while shared memory is handed over to it."""

    @wraps(excepthook)
    def hook(kind: type[BaseException], *args) -> None:
        if not issubclass(kind, ConnectionError | EOFError):
            excepthook(kind, *args)

    return hook


def _leave_with(parent: int) -> None:
    # The parent, or the server that forks for it.
    serves = multiprocessing.get_start_method() == 'forkserver'
    above = os.getppid() if serves else parent
    # PyTorch's workers look for their parent, too, but then wait for it to read what
    # they have written.
    while os.getppid() == above:
        received = signal.sigtimedwait({signal.SIGTERM}, 1.0)
        if received is not None and received.si_pid == parent:
            break
    directory = multiprocessing.current_process()._config.get('tempdir')
    if directory is not None:
        shutil.rmtree(directory, ignore_errors=True)
    os._exit(0)
