"""Records of a run on a disk that is full, and has room again."""

import errno
import io
import json
import logging
import math
import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.dist import utils as dist_utils
from mmengine.logging import MMLogger
from mmengine.visualization import BaseVisBackend, LocalVisBackend, Visualizer

from sapiens_plugin.compat import records


def _full(*args, **kwargs):
    raise OSError(errno.ENOSPC, 'No space left on device')


@pytest.fixture
def said(monkeypatch):
    """The warnings of the current log."""
    warnings = []

    def keep(record):
        if record.levelno >= logging.WARNING:
            warnings.append(record.getMessage())

    monkeypatch.setattr(MMLogger.get_current_instance(), 'callHandlers', keep)
    return warnings


class _Backend(BaseVisBackend):
    """Takes what it is given, unless it is ``full``."""

    def __init__(self, save_dir):
        super().__init__(str(save_dir))
        self.full = False
        self.taken = []

    def _init_env(self):
        pass

    @property
    def experiment(self):
        return self

    def _take(self, *args):
        if self.full:
            _full()
        self.taken.append(args)

    add_config = add_graph = add_image = add_scalar = add_scalars = close = _take


def _visualizer(*backends):
    visualizer = Visualizer()
    visualizer._vis_backends = dict(enumerate(backends))
    return visualizer


_CALLS = dict(
    add_config=('config',),
    add_graph=('model', 'batch'),
    add_image=('name', 'image', 7),
    add_scalar=('name', 1.0, 7),
    add_scalars=({'loss': 1.0}, 7, None),
    close=(),
)


@pytest.mark.parametrize('name', _CALLS)
def test_an_error_of_one_backend_is_kept_from_the_run_and_the_others(
    tmp_path, said, name
):
    broken, sound = _Backend(tmp_path), _Backend(tmp_path)
    broken.full = True
    visualizer = _visualizer(broken, sound)
    for _ in range(2):
        getattr(visualizer, name)(*_CALLS[name])
    assert sound.taken == [_CALLS[name]] * 2
    (warning,) = said
    for part in ('_Backend', str(tmp_path), 'No space left', 'tried'):
        assert part in warning
    broken.full = False
    getattr(visualizer, name)(*_CALLS[name])
    assert broken.taken == [_CALLS[name]]
    assert len(said) == 1


def test_other_errors_end_the_run(tmp_path):
    with pytest.raises(TypeError):
        _visualizer(_Backend(tmp_path)).add_scalars({'loss': 1.0}, none_of='theirs')


def test_other_processes_record_nothing(tmp_path, monkeypatch):
    backend = _Backend(tmp_path)
    monkeypatch.setattr(dist_utils, 'get_rank', lambda group=None: 1)
    _visualizer(backend).add_scalars({'loss': 1.0})
    assert backend.taken == []


def test_a_backend_that_failed_waits_for_room(tmp_path, said, monkeypatch):
    backend = _Backend(tmp_path / 'gone')
    visualizer = _visualizer(backend)
    backend.full = True
    visualizer.add_scalar('a', 1.0)
    backend.full = False
    with monkeypatch.context() as patch:
        patch.setattr(records.tempfile, 'TemporaryFile', _full)
        visualizer.add_scalar('b', 1.0)
        visualizer.close()
        assert backend.taken == [()]  # the latter alone
    visualizer.add_scalar('c', 1.0)
    assert backend.taken == [(), ('c', 1.0, 0)]
    assert list((tmp_path / 'gone').iterdir()) == []


def test_no_line_of_scalars_is_cut(tmp_path, monkeypatch, said):
    """As much of a line is written as there is room for, and then there is none."""
    backend = LocalVisBackend(str(tmp_path))
    visualizer = _visualizer(backend)
    visualizer.add_scalars({'loss': 1.0}, step=1)

    def half(value, file, **kwargs):
        file.write('{"loss": ')
        _full()

    with monkeypatch.context() as patch:
        patch.setattr('mmengine.visualization.vis_backend.dump', half)
        visualizer.add_scalars({'loss': 2.0}, step=2, file_path='new.json')
    assert (tmp_path / 'new.json').read_text() == ''
    visualizer.add_scalars({'loss': 3.0}, step=3)
    lines = (tmp_path / 'scalars.json').read_text().splitlines()
    assert [json.loads(line)['step'] for line in lines] == [1, 3]
    assert len(said) == 1


def test_no_picture_is_cut(tmp_path, monkeypatch, said):
    visualizer = _visualizer(LocalVisBackend(str(tmp_path)))
    pictures = [np.full((8, 6, 3), (value, 0, 90), np.uint8) for value in range(3)]
    for step in (0, 1):
        visualizer.add_image('persons', pictures[step], step=step)
    with monkeypatch.context() as patch:
        patch.setattr(
            'sapiens_plugin.core.utils.whole_file.open', _short_open, raising=False
        )
        for step in (1, 2):
            visualizer.add_image('persons', pictures[2], step=step)
    assert sorted(path.name for path in (tmp_path / 'vis_image').iterdir()) == [
        'persons_0.png',
        'persons_1.png',
    ]
    for step in (0, 1):
        path = tmp_path / 'vis_image' / f'persons_{step}.png'
        assert np.array_equal(cv2.imread(str(path))[..., ::-1], pictures[step])
    (warning,) = said
    assert 'LocalVisBackend' in warning and 'No space left' in warning
    visualizer.add_image('persons', pictures[2], step=2)
    assert (tmp_path / 'vis_image' / 'persons_2.png').exists()


@contextmanager
def _short_open(path, mode):
    """Open a file that takes some bytes and then no more."""
    with open(path, mode) as file:
        yield SimpleNamespace(write=lambda data: file.write(data[:20]) and _full())


def _tags(directory):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    files = sorted(directory.glob('events.out.*'))
    return [
        [
            v.tag
            for event in EventFileLoader(str(file)).Load()
            for v in event.summary.value
        ]
        for file in files
    ]


@pytest.mark.filterwarnings('error::pytest.PytestUnhandledThreadExceptionWarning')
def test_tensorboard_begins_another_file_where_one_was_cut(tmp_path, monkeypatch, said):
    pytest.importorskip('tensorboard')
    from mmengine.visualization import TensorboardVisBackend
    from tensorboard.compat.tensorflow_stub.io import gfile

    # pytest has a hook of its own.
    hook = records.without_tensorboard(threading.excepthook)
    monkeypatch.setattr(threading, 'excepthook', hook)
    backend = TensorboardVisBackend(str(tmp_path))
    visualizer = _visualizer(backend)
    visualizer.add_scalar('before', 1.0, step=1)
    backend.experiment.flush()
    worker = backend.experiment.file_writer.event_writer._async_writer._worker
    write = gfile.LocalFileSystem._write

    def half(self, filename, content, mode):
        write(self, filename, content[: len(content) // 2], mode)
        _full()

    with monkeypatch.context() as patch:
        patch.setattr(gfile.LocalFileSystem, '_write', half)
        patch.setattr(records, '_check_room', _full)
        visualizer.add_scalar('lost', 1.0, step=2)
        worker.join(timeout=60)
        for step in range(3, 30):
            visualizer.add_scalar('lost', 1.0, step=step)
    visualizer.add_scalar('after', 1.0, step=30)
    visualizer.add_image('picture', np.zeros((8, 8, 3), np.uint8), step=30)
    visualizer.close()
    assert _tags(tmp_path) == [['before'], ['after', 'picture']]
    assert len(said) == 1


# --- The log ------------------------------------------------------------------------


class _FullStream(io.StringIO):
    def write(self, text):
        _full()


def test_a_log_that_cannot_be_written_says_so_once(tmp_path, capsys):
    path = tmp_path / 'run.log'
    logger = MMLogger('test_records', log_file=str(path))
    *_, handler = logger.handlers
    stream, handler.stream = handler.stream, _FullStream()
    for step in range(3):
        logger.info('step %d', step)
    handler.stream = stream
    logger.info('step 3')
    handler.close()
    printed, errors = capsys.readouterr()
    assert all(f'step {step}' in printed for step in range(4))
    (line,) = errors.splitlines()
    assert str(path) in line and 'No space left' in line
    assert re.findall(r'step \d', path.read_text()) == ['step 3']


def test_a_bug_in_a_log_line_is_still_told_in_full(tmp_path, capsys):
    logger = MMLogger('test_records_bug', log_file=str(tmp_path / 'run.log'))
    logger.info('%d', 'no number')
    assert capsys.readouterr().err.count('Traceback') == len(logger.handlers) == 2
    logger.handlers[1].close()


# --- A real limit -------------------------------------------------------------------

_LIMITED = """
import resource, signal, sys
import numpy as np
from sapiens_plugin.compat.apply import apply
apply()
from mmengine.logging import MMLogger
from mmengine.visualization import Visualizer

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
directory = sys.argv[1]
picture = np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8)
logger = MMLogger.get_instance('limited', log_file=directory + '/run.log')
backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
visualizer = Visualizer(vis_backends=backends, save_dir=directory)
for step in range(300):
    if step == 100:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    if step == 200:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    if step % 50 == 0:
        visualizer.add_image('picture', picture, step=step)
    visualizer.add_scalars({'loss': 1.0}, step=step)
    logger.info('step %d', step)
visualizer.close()
"""


@pytest.mark.skipif(os.name == 'nt', reason='limits of this kind are of POSIX')
def test_a_process_that_may_not_write_goes_on_and_writes_again(tmp_path):
    pytest.importorskip('tensorboard')
    result = subprocess.run(
        [sys.executable, '-c', _LIMITED, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert len(result.stderr.splitlines()) == 1 and 'run.log' in result.stderr
    for name in ('LocalVisBackend', 'TensorboardVisBackend'):
        assert result.stdout.count(f'{name} cannot write') == 1
    scalars = (tmp_path / 'vis_data' / 'scalars.json').read_text().splitlines()
    steps = [json.loads(line)['step'] for line in scalars]
    assert steps == [*range(100), *range(200, 300)]
    pictures = (tmp_path / 'vis_data' / 'vis_image').iterdir()
    assert {path.name for path in pictures} == {
        f'picture_{step}.png' for step in (0, 50, 200, 250)
    }
    *_, last = _tags(tmp_path / 'vis_data')
    assert len(last) == 100 + 2
    assert 'step 299' in (tmp_path / 'run.log').read_text()


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
