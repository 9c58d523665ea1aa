"""Signals, and SIGKILL, on real trainings in processes of their own."""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from types import SimpleNamespace

import psutil
import pytest
import torch
from mmengine.hooks import EMAHook

from sapiens_plugin.engine.hooks.interrupt_hook import InterruptHook
from sapiens_plugin.engine.loops.train_loop import ResumableTrainLoop
from sapiens_plugin.launch import resume_command

posix = pytest.mark.skipif(sys.platform == 'win32', reason='signals of POSIX')
ENV = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONUNBUFFERED': '1'}


@pytest.fixture
def job(demo_config, tmp_path):
    """A job of 60 epochs of 4 steps, with workers."""
    cfg = demo_config
    cfg.train_dataloader.update(
        batch_size=6, num_workers=2, persistent_workers=True, prefetch_factor=1
    )
    cfg.train_dataloader.sampler.shuffle = True
    cfg.train_cfg.max_epochs = 60
    cfg.param_scheduler = None
    for name in ('report', 'pictures'):
        cfg.default_hooks.pop(name)
    cfg.default_hooks.checkpoint = dict(
        type='sapiens_plugin.CheckpointHook', interval=-1, save_last=False
    )
    cfg.dump(tmp_path / 'job.py')
    return tmp_path / 'job.py'


class Training:
    """A ``tools/train.py`` in a process group of its own."""

    def __init__(self, command, **kwargs):
        self.process = subprocess.Popen(
            list(map(str, command)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding='utf-8',
            env=ENV,
            start_new_session=True,
            **kwargs,
        )
        self.said = ''

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def wait_for(self, text):
        """Read on until a line has this in it."""
        for line in self.process.stdout:
            self.said += line
            if text in line:
                return
        raise AssertionError(f'{text!r} was never said:\n{self.said}')

    def send_to_all(self, signum):
        """As a terminal sends Ctrl-C, and SLURM its signals."""
        os.killpg(self.process.pid, signum)

    def end(self):
        """Return the exit code."""
        self.said += self.process.communicate(timeout=120)[0]
        return self.process.returncode


def train(repo, job, *flags):
    return Training([sys.executable, repo / 'tools' / 'train.py', job, *flags])


@posix
def test_a_signal_saves_and_tells_how_to_go_on(job, repo, tmp_path):
    with train(repo, job) as run:
        run.wait_for('epoch 2/60 | step 3/4')
        workers = psutil.Process(run.process.pid).children()
        run.send_to_all(signal.SIGTERM)
        assert run.end() == 128 + signal.SIGTERM
    assert len(workers) >= 2
    assert not psutil.wait_procs(workers, timeout=20)[1]
    assert 'SIGTERM: finishing this step, then saving' in run.said
    assert 'Traceback' not in run.said
    (saved,) = (tmp_path / 'work').glob('iter_*.pth')
    assert f'saved in {saved} and goes on from there' in run.said
    command = shlex.split(run.said.strip().splitlines()[-1])
    assert command[1:] == [str(repo / 'tools' / 'train.py'), str(job), '--resume']

    place = int(re.search(r'iter_(\d+)', saved.name)[1])
    epoch, done = divmod(place, 4)
    with Training(command) as run:
        run.wait_for(f'epoch {epoch + 1}/60 | step {done + 1}/4')
        # An epoch whose last batch is done may not be counted yet.
        assert re.search(rf'resumed epoch: \d+, iter: {place}\n', run.said)
        run.send_to_all(signal.SIGINT)
        time.sleep(1.2)  # what comes sooner is the same signal, passed on
        run.send_to_all(signal.SIGINT)
        # Mostly it has left by itself when the second one comes.
        assert run.end() in (130, -signal.SIGINT)
        assert 'Traceback' not in run.said


@posix
def test_a_terminal_that_is_closed_saves_too(job, repo, tmp_path):
    import fcntl
    import pty
    import termios

    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, str(repo / 'tools' / 'train.py'), str(job)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=ENV,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(slave)
    try:
        said = b''
        while b'epoch 2/60 | step 3/4' not in said:
            said += os.read(master, 4096)
        os.close(master)
        assert process.wait(timeout=120) == 128 + signal.SIGHUP
    finally:
        process.kill()
        process.wait()
    assert len(list((tmp_path / 'work').glob('iter_*.pth'))) == 1
    assert 'iter_' in (tmp_path / 'work' / 'last_checkpoint').read_text('utf-8')
    (log,) = (tmp_path / 'work').glob('*/*.log')
    assert 'SIGHUP: the run ends here. --resume goes on.' in log.read_text('utf-8')


@posix
def test_what_is_ignored_stays_so():
    """As SIGHUP is under ``nohup``."""
    loop = object.__new__(ResumableTrainLoop)
    loop.at_end = ExitStack()
    before = {n: signal.getsignal(n) for n in (signal.SIGHUP, signal.SIGTERM)}
    hook = InterruptHook()
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        hook.before_train(SimpleNamespace(train_loop=loop))
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) == hook._note
        loop.at_end.close()
        assert signal.getsignal(signal.SIGTERM) == before[signal.SIGTERM]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_validation_of_averages_is_finished_first():
    hook = InterruptHook()
    for hooks, batches in (([], 3), ([object.__new__(EMAHook)], 0)):
        hook.before_val_epoch(SimpleNamespace(hooks=hooks, val_dataloader=[1, 2, 3]))
        assert hook._common_val_batches == batches


# What makes a training take its time where a signal finds it.
SLOW_STEP = """
import time
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class SlowStep(Hook):
    def after_train_iter(self, runner, *args, **kwargs):
        runner.logger.info('a slow step')
        time.sleep(600)
"""


@posix
def test_a_second_signal_leaves_at_once(job, repo, tmp_path):
    (tmp_path / 'slow_step.py').write_text(SLOW_STEP, encoding='utf-8')
    text = job.read_text(encoding='utf-8')
    text += "\ncustom_imports['imports'].append('slow_step')\n"
    text += "custom_hooks = [dict(type='mmengine.SlowStep')]\n"
    job.write_text(text, encoding='utf-8')
    command = [sys.executable, repo / 'tools' / 'train.py', job]
    ENV['PYTHONPATH'] = str(tmp_path)
    try:
        run = Training(command)
    finally:
        del ENV['PYTHONPATH']
    with run:
        run.wait_for('a slow step')
        run.send_to_all(signal.SIGINT)
        run.send_to_all(signal.SIGINT)  # the same, passed on by a launcher
        time.sleep(1.5)
        assert run.process.poll() is None
        # On a busy machine the first may have been noted less than a second before.
        for _ in range(4):
            run.send_to_all(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                run.process.wait(timeout=4)
                break
        assert run.end() == 130
    assert 'Leaving at once. --resume goes on' in run.said
    assert not list((tmp_path / 'work').glob('*.pth'))


@posix
def test_ctrl_c_before_the_training_is_one_line(job, repo):
    with train(repo, job) as run:
        run.wait_for('System environment')
        run.send_to_all(signal.SIGINT)
        assert run.end() == 130
    assert run.said.strip().splitlines()[-1] == 'tools/train.py: interrupted.'
    assert 'Traceback' not in run.said


@pytest.mark.parametrize(
    ('argv', 'resume'),
    [
        (['t.py', 'a.py'], None),
        (['t.py', 'a.py', '--resume'], 'auto'),
        (['t.py', '--resume', 'a/iter_3.pth', 'a.py'], 'a/iter_3.pth'),
        (['t.py', 'a.py', '--resume=iter_3.pth'], 'iter_3.pth'),
        (['t.py', '--res', 'x.pth', 'a.py'], 'x.pth'),
    ],
)
def test_the_command_resumes_once(argv, resume):
    command = resume_command(argv, resume)
    assert command == f'{shlex.quote(sys.executable)} t.py a.py --resume'


def test_the_command_keeps_what_else_was_asked_for():
    argv = ['t.py', 'my job.py', '--amp', '--cfg-options', 'a.b="[1, 2]"']
    words = shlex.split(resume_command(argv, None))
    assert words == [sys.executable, *argv, '--resume']


@posix
def test_a_killed_run_ends_as_one_that_was_not(repo, tmp_path):
    """Once; ``benchmarks/kill_and_resume.py`` does it a hundred times."""
    answer = subprocess.run(
        [
            sys.executable,
            repo / 'benchmarks' / 'kill_and_resume.py',
            *('--kills', '1', '--epochs', '3', '--earliest', '0.5'),
            f'--out={tmp_path}',
        ],
        capture_output=True,
        text=True,
        encoding='utf-8',
        env=ENV,
        timeout=900,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert re.search(r'^ +1 +1$', answer.stdout, re.MULTILINE), answer.stdout
    reference = tmp_path / 'reference'
    first, last = (
        torch.load(path, weights_only=True)['state_dict']
        for path in (reference / 'epoch_2.pth', reference / 'epoch_3.pth')
    )
    assert any(not torch.equal(value, first[name]) for name, value in last.items())
