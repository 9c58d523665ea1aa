"""Training that stops anywhere and goes on as if it had not."""

import copy
import logging
import os
import signal
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.registry import METRICS
from mmengine.runner import BaseLoop, EpochBasedTrainLoop

from sapiens_plugin import recipe
from sapiens_plugin.engine.loops import train_loop
from sapiens_plugin.engine.loops.train_loop import ResumableTrainLoop
from sapiens_plugin.engine.utils.start import Place
from sapiens_plugin.errors import InputError
from sapiens_plugin.workbench.command import Interrupted

posix = pytest.mark.skipif(sys.platform == 'win32', reason='kills workers by signals')


@METRICS.register_module(force=True)
class MeanKeypoint(BaseMetric):
    """A number that follows from all predictions, sooner than COCO's."""

    default_prefix = 'test'

    def process(self, data_batch, data_samples):
        self.results += [s['pred_instances']['keypoints'].mean() for s in data_samples]

    def compute_metrics(self, results):
        return dict(mean=float(sum(results)), persons=len(results))


class Trace(Hook):
    """What was trained on, and what came of it."""

    priority = 'LOW'  # before CheckpointHook and InterruptHook

    def __init__(self):
        self.steps, self.validations = [], []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.steps.append(
            (
                runner.iter,
                batch_idx,
                tuple(sample.img_id for sample in data_batch['data_samples']),
                outputs['loss'].item(),
                runner.optim_wrapper.param_groups[-1]['lr'],
            )
        )

    def after_val_epoch(self, runner, metrics=None):
        self.validations.append((runner.epoch, metrics))


class CtrlC(Hook):
    """Press it when this iteration is over, or this batch of a validation."""

    def __init__(self, *, iteration=None, val_batch=None):
        self.iteration, self.val_batch = iteration, val_batch

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == self.iteration:
            signal.raise_signal(signal.SIGINT)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if (runner.epoch, batch_idx) == self.val_batch:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture(autouse=True)
def unformatted_configs(monkeypatch):
    """Formatting configs is most of the time that a toy job takes."""
    monkeypatch.setattr(Config, 'pretty_text', '')


@pytest.fixture
def job(demo_config):
    """Three epochs of 11 batches, 9 of them used, over a phase switch."""
    cfg = demo_config
    cfg.model.backbone.drop_path_rate = 0.4
    cfg.train_dataloader.batch_size = 2
    cfg.train_dataloader.dataset.indices = 21
    cfg.train_dataloader.sampler.shuffle = True
    cfg.train_dataloader.dataset.pipeline[2:2] = [
        dict(type='RandomFlip', direction='horizontal'),
        dict(type='RandomBBoxTransform', rotate_factor=15),
    ]
    cfg.val_dataloader.batch_size = 2
    cfg.val_evaluator = dict(type='MeanKeypoint')
    for name in ('report', 'pictures', 'status'):
        cfg.default_hooks.pop(name)
    cfg.log_processor = dict(type='LogProcessor')
    cfg.optim_wrapper.accumulative_counts = 3
    cfg.train_cfg.val_interval = 1
    for scheduler in cfg.param_scheduler[:-1]:
        scheduler.optimizer_steps = 2
    cfg.param_scheduler[-1].end = 3
    cfg.default_hooks.checkpoint = dict(
        type='sapiens_plugin.CheckpointHook', interval=1, max_keep_ckpts=1
    )
    return cfg


def streamed(cfg):
    """The same in three batches an epoch, by a streamed model."""
    recipe.streamed(micro_batch=2)(cfg)
    cfg.train_dataloader.batch_size = 6
    cfg.train_dataloader.drop_last = True
    return cfg


def train(make_runner, cfg, *hooks):
    trace = Trace()
    runner = make_runner(cfg, *hooks)
    runner.register_hook(trace)
    try:
        runner.train()
    except Interrupted as interruption:
        assert interruption.saved.is_file()
    finally:
        send_workers_home(runner)
    return runner, trace


def send_workers_home(runner):
    # Left to the collector of garbage, each of them takes 5 s.
    for loop in filter(None, (runner._train_loop, runner._val_loop)):
        if isinstance(loop, BaseLoop) and loop.dataloader._iterator is not None:
            loop.dataloader._iterator._shutdown_workers()


def with_workers(cfg, count):
    cfg.train_dataloader.update(num_workers=count, persistent_workers=count > 0)
    return cfg


def assert_same_state(one, other):
    first, second = one.model.state_dict(), other.model.state_dict()
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    first, second = (r.optim_wrapper.state_dict()['state'] for r in (one, other))
    assert first.keys() == second.keys()
    for key, state in first.items():
        for name, value in state.items():
            assert torch.equal(value, second[key][name]), (key, name)
    first, second = (
        r.message_hub.get_scalar('train/loss').data[0] for r in (one, other)
    )
    assert first.tolist() == second.tolist()


@pytest.mark.parametrize('kind', ['stock', 'streamed'])
def test_a_run_interrupted_again_and_again_equals_one_that_was_not(
    kind, job, make_runner
):
    """Within an epoch, at its last batch and the phase switch, and in validations."""
    if kind == 'streamed':
        job = streamed(job)
        stops = [dict(iteration=1), dict(val_batch=(2, 1)), dict(iteration=6)]
        places = [(0, 3), (2, 6), (2, 8)]
    else:
        # A signal within three micro-batches waits for the third.
        stops = [
            dict(iteration=0),
            dict(iteration=7),
            dict(val_batch=(1, 0)),
            dict(iteration=12),
            dict(iteration=25),
        ]
        places = [(0, 3), (0, 9), (1, 9), (1, 15), (2, 27)]
    whole = copy.deepcopy(job)
    whole.work_dir += '_whole'
    reference, expected = train(make_runner, whole)

    steps, validations = [], []
    for i, (stop, place) in enumerate(zip(stops, places, strict=True)):
        runner, trace = train(make_runner, with_workers(job, i % 3), CtrlC(**stop))
        meta = torch.load(f'{runner.work_dir}/iter_{place[1]}.pth')['meta']
        assert (meta['epoch'], meta['iter']) == place
        steps += trace.steps
        validations += trace.validations
        job.resume = True
    runner, trace = train(make_runner, with_workers(job, 1))
    assert steps + trace.steps == expected.steps
    assert validations + trace.validations == expected.validations
    assert [epoch for epoch, _ in expected.validations] == [1, 2, 3]
    assert_same_state(runner, reference)


def test_an_epoch_is_a_whole_number_of_optimizer_steps(job, make_runner, caplog):
    runner, trace = train(make_runner, job)
    assert len(runner.train_dataloader) == 9
    assert runner.max_iters == len(trace.steps) == 27
    assert 'An epoch has 9 of 11 batches' in _log(runner)
    # Whatever is left out of one epoch is in another.
    assert len({image for step in trace.steps for image in step[2]}) >= 19
    job.optim_wrapper.accumulative_counts = 12
    with pytest.raises(InputError, match='An epoch has 11 batches of 2 images'):
        make_runner(job).train()


def _log(runner):
    for handler in runner.logger.handlers:
        if isinstance(handler, logging.FileHandler):
            with open(handler.baseFilename, encoding='utf-8') as file:
                return file.read()
    raise AssertionError('the run has no log file')


def test_batches_of_another_size_begin_the_epoch_anew(job, make_runner):
    train(make_runner, job, CtrlC(iteration=10))
    job.train_dataloader.batch_size = 1
    job.resume = True
    runner, trace = train(make_runner, job)
    # The interruption came after batch 12 of 27; an epoch has 21 batches now.
    assert trace.steps[0][:2] == (21, 0)
    assert len(trace.steps) == 42
    log = _log(runner)
    assert 'An epoch had 9 batches when the checkpoint was written' in log
    assert 'Epoch 2 is trained from its beginning' in log


def test_other_surroundings_are_told(job, make_runner, monkeypatch):
    told = 'From here on, numbers can differ in their last bits'
    train(make_runner, job, CtrlC(iteration=4))
    job.resume = True
    runner, _ = train(make_runner, job, CtrlC(iteration=10))
    assert told not in _log(runner)  # all is as it was
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, 'get_num_threads', lambda: threads + 3)
    monkeypatch.setattr(torch, '__version__', '1.0')
    job.optim_wrapper.type = 'AmpOptimWrapper'
    runner, _ = train(make_runner, job, CtrlC(iteration=16))
    log = _log(runner)
    assert log.count(told) == 1
    for change in (
        'PyTorch is 1.0 and was',
        f'(OMP_NUM_THREADS) is {threads + 3} and was {threads}',
        'optim_wrapper.type is AmpOptimWrapper and was OptimWrapper',
    ):
        assert change in log
    assert 'the device is' not in log
    # From now on it is these that are as they were.
    runner, _ = train(make_runner, job)
    assert told not in _log(runner)


def test_a_validation_that_is_due_can_be_left_out(job, make_runner):
    train(make_runner, job, CtrlC(val_batch=(1, 0)))
    job.resume = True
    for name in ('val_dataloader', 'val_evaluator', 'val_cfg'):
        job[name] = None
    job.train_cfg.max_epochs, job.param_scheduler = 1, None
    runner, trace = train(make_runner, job)
    assert not trace.steps and not trace.validations
    assert not runner.train_loop.validation_due


def test_another_sampler_is_refused(job, make_runner):
    job.train_dataloader.sampler.type = 'DefaultSampler'
    with pytest.raises(InputError, match=r'ResumableSampler.*not DefaultSampler'):
        make_runner(job).train()


@pytest.mark.parametrize(
    'plan',
    [
        dict(val_interval=2),
        dict(val_interval=3, val_begin=4),
        dict(val_interval=4, dynamic_intervals=[(5, 2), (8, 1)]),
    ],
)
def test_validations_come_when_they_do_in_the_stock_loop(job, make_runner, plan):
    runner = make_runner(job)
    runner._val_loop = runner.build_val_loop(job.val_cfg)
    runner.val_loop.run = lambda: validated.append(loop.epoch)
    runs = []
    for kind in ('mmengine.EpochBasedTrainLoop', 'sapiens_plugin.ResumableTrainLoop'):
        validated = []
        runner._train_loop = loop = runner.build_train_loop(
            dict(type=kind, max_epochs=11, **plan)
        )
        if kind.startswith('mmengine'):
            EpochBasedTrainLoop.run_epoch, stock = _count, loop.run_epoch.__func__
        else:
            loop._batches = lambda start: ()
            loop._iter = 0
        runner.call_hook = lambda name, **kwargs: None
        try:
            loop.run()
        finally:
            EpochBasedTrainLoop.run_epoch = stock
        runs.append(validated)
    assert runs[0] == runs[1]
    assert runs[0][-1] == 11
    assert [e for e in range(1, 12) if loop.validates_after(e)] == runs[0]


def _count(loop):
    loop._epoch += 1


class Kill(Hook):
    """Kill a data-loading worker when these iterations are over."""

    def __init__(self, *iterations, val_batch=None):
        self.iterations, self.val_batch = iterations, val_batch

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter in self.iterations:
            self._kill(runner.train_dataloader)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if (runner.epoch, batch_idx) == self.val_batch:
            self.val_batch = None
            self._kill(runner.val_dataloader)

    def _kill(self, loader):
        worker = loader._iterator._workers[0]
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
        time.sleep(0.05)  # where PyTorch would raise


@posix
def test_dead_workers_are_replaced_once(job, make_runner):
    job.train_cfg.max_epochs, job.param_scheduler = 1, None
    reference, expected = train(make_runner, job)
    runner, trace = train(make_runner, with_workers(job, 2), Kill(4))
    assert trace.steps == expected.steps
    assert trace.validations == expected.validations
    assert_same_state(runner, reference)
    assert 'died with exit code -9 (SIGKILL, as the system does' in _log(runner)
    with pytest.raises(InputError, match=r'-9 .*second time.*num_workers'):
        train(make_runner, job, Kill(2, 5))


@posix
def test_a_validation_begins_anew_when_its_workers_die(job, make_runner):
    job.train_cfg.max_epochs, job.param_scheduler = 1, None
    _, expected = train(make_runner, job)
    job.val_dataloader.update(num_workers=1, persistent_workers=True)
    job.val_dataloader.batch_size = 1
    runner, trace = train(make_runner, job, Kill(val_batch=(1, 3)))
    assert trace.validations == expected.validations
    assert 'died with exit code -9' in _log(runner)


def test_what_hooks_want_undone_is_undone_after_an_error(job, make_runner):
    undone = []

    class Fails(Hook):
        def before_train(self, runner):
            runner.train_loop.at_end.callback(undone.append, 'done')

        def after_train_iter(self, runner, *args, **kwargs):
            raise KeyError('a bug')

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyError):
        make_runner(job, Fails()).train()
    assert undone == ['done']
    assert signal.getsignal(signal.SIGINT) is before


def test_the_loop_gives_the_model_what_a_hook_has_put_there(job, make_runner):
    given = []

    class Guard(Hook):
        def before_train(self, runner):
            loop = runner.train_loop
            assert isinstance(loop, ResumableTrainLoop)
            assert loop.optim_wrapper is runner.optim_wrapper
            loop.optim_wrapper = 'another'
            runner.model.train_step = lambda batch, optim_wrapper: (
                given.append(optim_wrapper) or dict(loss=torch.zeros(()))
            )

    job.train_cfg.max_epochs, job.param_scheduler = 1, None
    for name in ('val_dataloader', 'val_evaluator', 'val_cfg'):
        job[name] = None
    for name in ('phase_switch', 'step_guard', 'weights_guard', 'flip_test'):
        job.default_hooks[name] = None
    make_runner(job, Guard()).train()
    assert given == ['another'] * 9


@pytest.mark.parametrize(
    'done, before, there', [(4, 6, 16), (5, 6, 12), (4, 7, 12), (7, 6, 12)]
)
def test_only_between_two_steps_an_epoch_goes_on(done, before, there):
    """An accumulation may have changed, and the number of batches not."""
    warnings = []
    loop = object.__new__(ResumableTrainLoop)
    loop.dataloader, loop._counts = range(6), 2
    loop._runner = SimpleNamespace(
        logger=SimpleNamespace(warning=warnings.append), val_loop=None
    )
    place = Place(epoch=2, iter=12 + done, steps_per_epoch=before)
    assert loop.resume_from(place) == place._replace(iter=there)
    assert len(warnings) == (there == 12)


def test_processes_and_iterations_draw_different_numbers(monkeypatch):
    def draw(rank, iteration):
        monkeypatch.setattr(train_loop, 'get_rank', lambda: rank)
        drawn = []
        loop = object.__new__(ResumableTrainLoop)
        loop._seed, loop._iter, loop.optim_wrapper = 7, iteration, None
        loop._runner = SimpleNamespace(
            call_hook=lambda *args, **kwargs: None,
            model=SimpleNamespace(
                train_step=lambda *args, **kwargs: drawn.append(float(torch.rand(())))
            ),
        )
        loop.run_iter(0, {})
        assert loop._iter == iteration + 1
        return drawn[0]

    places = [(rank, iteration) for rank in (0, 1) for iteration in (0, 1, 2)]
    numbers = [draw(*place) for place in places]
    assert len(set(numbers)) == 6
    assert numbers == [draw(*place) for place in places]
