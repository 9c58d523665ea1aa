"""Records of a run: its log, curves and pictures, on a full disk too."""

import logging
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache, wraps
from pathlib import Path
from types import SimpleNamespace
from weakref import WeakSet

import cv2
import numpy as np
from mmengine.logging import HistoryBuffer, MMLogger, print_log
from mmengine.visualization import BaseVisBackend, LocalVisBackend, Visualizer

from sapiens_plugin.core.utils.whole_file import whole_file

# Bytes to be free before a backend that failed is given more: none shall begin files
# that it cannot fill.
_ROOM = 2**20

_failed: WeakSet[BaseVisBackend] = WeakSet()


@cache
def outlive_full_disks() -> None:
    """Let a run go on when its log and its curves cannot be written.

    Symptom:
        The disk is full, and the run, whose checkpoints wait for room, ends with an
        OSError of TensorBoard or of ``scalars.json``, after a stack trace of
        TensorBoard's thread and another one for every line of the log. Pictures are
        cut, without a word.

    Cause:
        An error of one visualization backend goes through the visualizer and the hook
        that logs. TensorBoard's thread is dead from then on, so that free space does
        not help. Python's handlers of logs print the stack for every line. OpenCV
        returns False where it cannot write a file, and nobody looks.

    Cure:
        Whichever backends a config names, one that raises an OSError is warned about
        once and tried again later (:func:`guarded`). The log says once on stderr that
        it cannot be written. All of them write again when there is room.
    """
    records = ('config', 'graph', 'image', 'scalar', 'scalars')
    for name in (*(f'add_{record}' for record in records), 'close'):
        setattr(Visualizer, name, guarded(getattr(Visualizer, name)))
    LocalVisBackend._dump = appending_whole(LocalVisBackend._dump)
    LocalVisBackend.add_image = add_whole_image
    threading.excepthook = without_tensorboard(threading.excepthook)
    MMLogger.__init__ = telling_once(MMLogger.__init__)


@cache
def leave_non_finite_out_of_means() -> None:
    """Let the log's means tell of the steps that were taken.

    Symptom:
        After a step whose loss is not finite, and that is skipped, the loss in the log
        and in all curves is ``nan`` until the step has left the window of the mean.

    Cause:
        ``HistoryBuffer.mean`` is the mean of all values in its window.

    Cure:
        It is that of the finite ones; without any, what it was.
    """
    mean = _mean_of_finite(HistoryBuffer.mean)
    # Buffers are pickled with their table, by names that have to lead to what is in it.
    HistoryBuffer.mean = HistoryBuffer._statistics_methods['mean'] = mean


def _mean_of_finite(mean: Callable) -> Callable:
    @wraps(mean)
    def mean_of_finite(buffer, window_size: int | None = None) -> float:
        value = mean(buffer, window_size)
        if np.isfinite(value):
            return value
        values, counts = (column[-(window_size or 0) :] for column in buffer.data)
        finite = np.isfinite(values)
        if not finite.any():
            return value
        return mean(type(buffer)(values[finite], counts[finite]))

    return mean_of_finite


def guarded(method: Callable) -> Callable:
    """Let a backend that cannot write keep neither the run nor other backends from it.

    What it was given is lost, a warning says so once, and it is tried again with the
    next call.

    Args:
        method: Of :class:`mmengine.visualization.Visualizer`; one that does nothing but
            call all its backends.
    """

    @wraps(method)
    def call_one_by_one(self, *args, **kwargs) -> None:
        for name, backend in self._vis_backends.items():
            try:
                # A backend that is closed may have more to end than files.
                if backend in _failed and method.__name__ != 'close':
                    _check_room(Path(backend._save_dir))
                method(SimpleNamespace(_vis_backends={name: backend}), *args, **kwargs)
            except OSError as error:
                _release_writer(backend)
                _warn_once(backend, error)

    return call_one_by_one


def _check_room(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=directory) as file:
        file.write(bytes(_ROOM))


def _release_writer(backend: BaseVisBackend) -> None:
    """Have TensorBoard begin another file; nothing reads on where a record is cut."""
    writer = getattr(backend, '_tensorboard', None)
    if writer is not None:
        writer.file_writer = writer.all_writers = None


def _warn_once(backend: BaseVisBackend, error: OSError) -> None:
    if backend in _failed:
        return
    _failed.add(backend)
    print_log(
        f'{type(backend).__name__} cannot write to {backend._save_dir}: {error}. The '
        'run goes on. What this backend is given is lost until it can write again, '
        'which is tried every time.',
        logger='current',
        level=logging.WARNING,
    )


def appending_whole(dump: Callable) -> Callable:
    """Leave no half of a line in the file that ``LocalVisBackend._dump`` appends to."""

    @wraps(dump)
    def append(self, value_dict: dict, file_path: str, file_format: str) -> None:
        path = Path(file_path)
        size = path.stat().st_size if path.exists() else 0
        try:
            dump(self, value_dict, file_path, file_format)
        except OSError:
            with suppress(OSError):
                os.truncate(path, size)
            raise

    return append


def add_whole_image(
    self, name: str, image: np.ndarray, step: int = 0, **kwargs
) -> None:
    """Take the place of ``LocalVisBackend.add_image``, which does not tell of failures.

    Args:
        self: The backend.
        name: The file is ``NAME_STEP.png``.
        image: (H, W, 3), RGB, uint8.
        step: Where the run is.
        **kwargs: Of other backends.

    Raises:
        OSError: The file cannot be written; an earlier one is left as it is.
    """
    # Asking for the experiment has the backend make its directories.
    path = Path(self.experiment._img_save_dir, f'{name}_{step}.png')
    path.parent.mkdir(parents=True, exist_ok=True)
    _, encoded = cv2.imencode('.png', cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    with whole_file(path) as file:
        file.write(encoded)


def without_result(compute_metrics: Callable) -> Callable:
    """Let a validation have no result when the disk does not take what it writes.

    Args:
        compute_metrics: Of :class:`mmengine.evaluator.BaseMetric`, which the main
            process alone calls while the others wait.
    """

    @wraps(compute_metrics)
    def compute(results: list) -> dict:
        try:
            return compute_metrics(results)
        except OSError as error:
            print_log(
                f'This validation has no result: {error}. Training goes on.',
                logger='current',
                level=logging.WARNING,
            )
            return {}

    return compute


def without_tensorboard(excepthook: Callable) -> Callable:
    """Keep quiet about a writing thread of TensorBoard that ends with an OSError.

    Its writer raises the error again when it is given more.

    Args:
        excepthook: :func:`threading.excepthook`.
    """

    @wraps(excepthook)
    def hook(args: threading.ExceptHookArgs) -> None:
        is_tensorboard = type(args.thread).__module__.startswith('tensorboard.')
        if not (is_tensorboard and issubclass(args.exc_type, OSError)):
            excepthook(args)

    return hook


def telling_once(init: Callable) -> Callable:
    """Have a logger say in one line, once, that its file cannot be written.

    Args:
        init: ``MMLogger.__init__``.
    """

    @wraps(init)
    def init_and_mend(self, *args, **kwargs) -> None:
        init(self, *args, **kwargs)
        for handler in self.handlers:
            if isinstance(handler, logging.FileHandler):
                handler.handleError = _ErrorTeller(handler)

    return init_and_mend


class _ErrorTeller:
    """In the place of ``logging.Handler.handleError``, which prints a stack a line."""

    def __init__(self, handler: logging.FileHandler):
        self._path = handler.baseFilename
        self._handle_error = handler.handleError
        self._has_told = False

    def __call__(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            self._handle_error(record)
        elif not self._has_told:
            self._has_told = True
            with suppress(OSError):  # it may go to the same disk
                print(
                    f'The log {self._path} cannot be written: {error}. The run goes '
                    'on, and lines may be missing there.',
                    file=sys.stderr,
                )
