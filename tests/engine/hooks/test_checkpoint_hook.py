"""Checkpoints by time, full disks, and what a run is resumed from."""

import errno
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from mmpose.evaluation.metrics import CocoMetric

from sapiens_plugin.core.checkpoints import saving
from sapiens_plugin.core.checkpoints.loading import load_from_local
from sapiens_plugin.core.checkpoints.saving import CheckpointNotWritten
from sapiens_plugin.engine.hooks import checkpoint_hook
from sapiens_plugin.engine.hooks.checkpoint_hook import CheckpointHook
from sapiens_plugin.errors import InputError

ALWAYS = 1e-9  # minutes


class Stopped(Exception):
    pass


class Do(Hook):
    """Do something when an iteration is over and everything else has been done."""

    def __init__(self, action, *, at=None):
        self.action, self.at = action, at

    def after_train_iter(self, runner, *args, **kwargs):
        if self.at in (None, runner.iter + 1):
            self.action(runner)


def stop_at(iteration):
    def stop(runner):
        raise Stopped

    return Do(stop, at=iteration)


@pytest.fixture
def cfg(demo_config):
    """Three epochs of three steps, the head alone in the first two."""
    demo_config.train_cfg.val_interval = 1
    for name in ('report', 'pictures', 'status'):
        demo_config.default_hooks.pop(name)
    demo_config.log_processor = dict(type='LogProcessor')
    demo_config.default_hooks.checkpoint = dict(
        type='sapiens_plugin.CheckpointHook',
        interval=1,
        max_keep_ckpts=2,
        save_best='coco/AP',
        interval_minutes=ALWAYS,
    )
    demo_config.val_evaluator = dict(type='CountingMetric')
    set_warmup(demo_config, 2)
    return demo_config


def set_warmup(cfg, epochs):
    cfg.default_hooks.phase_switch.warmup_epochs = epochs


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    """Leave out what takes most of the time of such a small job."""
    from mmengine.config import Config
    from mmengine.runner import Runner

    # It is formatted anew for every checkpoint.
    monkeypatch.setattr(Config, 'pretty_text', property(lambda cfg: '# a config\n'))
    monkeypatch.setattr(Runner, '_log_env', lambda runner, env_cfg: None)


@pytest.fixture(autouse=True)
def scores(monkeypatch):
    """Let validations score what is in this list, one after the other."""
    from mmengine.evaluator import BaseMetric
    from mmengine.registry import METRICS

    scores = [n / 10 for n in range(1, 10)]
    given = iter(scores)

    @METRICS.register_module(force=True)
    class CountingMetric(BaseMetric):
        default_prefix = 'coco'

        def process(self, data_batch, data_samples):
            self.results.append(0)

        def compute_metrics(self, results):
            return dict(AP=next(given))

    yield scores
    METRICS._module_dict.pop('CountingMetric')


def names(folder, pattern='*'):
    return sorted(path.name for path in Path(folder).glob(pattern) if path.is_file())


def by_time(folder):
    return sorted(
        int(name[5:-4])
        for name in names(folder)
        if re.fullmatch(r'iter_\d+\.pth', name)
    )


def last(folder):
    return Path(Path(folder, 'last_checkpoint').read_text('utf-8')).name


def log_of(runner):
    (log,) = Path(runner.log_dir).glob('*.log')
    return log.read_text('utf-8')


def hook_of(runner):
    return next(hook for hook in runner.hooks if isinstance(hook, CheckpointHook))


def damage(path):
    content = bytearray(Path(path).read_bytes())
    content[len(content) // 2] ^= 1
    Path(path).write_bytes(content)


# --- When, and what is in it --------------------------------------------------------


def test_checkpoints_by_time_come_between_steps(cfg, make_runner):
    cfg.train_dataloader.batch_size = 4  # six batches, three steps
    cfg.optim_wrapper.accumulative_counts = 2
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    seen = []
    runner = make_runner(cfg, Do(lambda r: seen.append(by_time(r.work_dir))))
    runner.train()
    assert seen[:6] == [[], [2], [2], [2, 4], [2, 4], [4, 6]]
    for iteration in by_time(runner.work_dir):
        meta = load_from_local(f'{runner.work_dir}/iter_{iteration}.pth')['meta']
        assert meta['epoch'] == 2 and meta['iter'] == iteration
        assert meta['validation_due'] is False and meta['steps_per_epoch'] == 6


def test_the_clock_starts_again_with_every_checkpoint(cfg, make_runner, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(
        checkpoint_hook, 'time', SimpleNamespace(monotonic=lambda: now[0])
    )
    cfg.default_hooks.checkpoint.update(interval_minutes=2, interval=2)

    def pass_a_minute(runner):
        now[0] += 60
        seen.append(by_time(runner.work_dir)[-1:])

    seen = []
    make_runner(cfg, Do(pass_a_minute)).train()
    # The hook looks before the minute passes. At the end of epoch 2, iteration 6, there
    # is an epoch's.
    assert seen == [[], [], [3], [3], [5], [5], [5], [5], [9]]


def test_an_epochs_checkpoint_says_whether_a_validation_follows(cfg, make_runner):
    cfg.train_cfg.update(max_epochs=4, val_interval=2)
    cfg.default_hooks.checkpoint.update(save_best=None, max_keep_ckpts=9)
    runner = make_runner(cfg)
    runner.train()
    metas = [
        load_from_local(f'{runner.work_dir}/epoch_{n}.pth')['meta'] for n in (1, 2, 3)
    ]
    assert [meta['validation_due'] for meta in metas] == [False, True, False]
    assert [(meta['epoch'], meta['iter']) for meta in metas] == [(1, 3), (2, 6), (3, 9)]


def test_with_a_new_best_the_epochs_checkpoint_knows_it(cfg, make_runner, scores):
    scores[1] = 0.05
    runner = make_runner(cfg)
    runner.train()
    loaded = {n: load_from_local(f'{runner.work_dir}/epoch_{n}.pth') for n in (2, 3)}
    assert [loaded[n]['meta']['validation_due'] for n in (2, 3)] == [True, False]
    infos = [loaded[n]['message_hub']['runtime_info'] for n in (2, 3)]
    assert [info['best_score'] for info in infos] == [0.1, 0.3]
    assert names(runner.work_dir, 'best_*') == ['best_coco_AP_epoch_3.pth']
    assert Path(infos[1]['best_ckpt']).name == 'best_coco_AP_epoch_3.pth'


def test_saving_now_within_a_validation(cfg, make_runner):
    cfg.default_hooks.checkpoint.update(
        interval_minutes=1000, interval=10, save_last=False
    )
    saved = []

    class SaveInValidation(Hook):
        def after_val_iter(self, runner, *args, **kwargs):
            saved.append(hook_of(runner).save_now(runner))

    runner = make_runner(cfg, SaveInValidation())
    runner.train()
    assert [path.name for path in saved] == ['iter_3.pth', 'iter_6.pth', 'iter_9.pth']
    assert by_time(runner.work_dir) == [6, 9]
    meta = load_from_local(saved[1])['meta']
    assert (meta['epoch'], meta['iter'], meta['validation_due']) == (2, 6, True)

    # Nothing is trained again, and the validation is made up for.
    cfg.resume, cfg.load_from = True, str(saved[1])
    steps = []
    runner = make_runner(cfg, Do(lambda r: steps.append(r.iter)))
    runner.train()
    assert steps == [6, 7, 8]
    assert runner.message_hub.get_info('best_score') == 0.5  # five validations in all


def test_no_checkpoints_by_time(cfg, make_runner):
    cfg.default_hooks.checkpoint.interval_minutes = None
    cfg.train_cfg = dict(by_epoch=True, max_epochs=2, val_interval=1)
    cfg.train_dataloader.sampler = dict(type='DefaultSampler', shuffle=False)
    runner = make_runner(cfg)
    runner.train()
    assert not by_time(runner.work_dir)
    assert last(runner.work_dir) == 'epoch_2.pth'


def test_another_loop_is_refused(cfg, make_runner):
    cfg.train_cfg = dict(by_epoch=True, max_epochs=2, val_interval=1)
    cfg.train_dataloader.sampler = dict(type='DefaultSampler', shuffle=False)
    with pytest.raises(InputError, match=r'train_cfg\.type=EpochBasedTrainLoop'):
        make_runner(cfg).train()


def test_a_stock_loop_does_not_go_on_within_an_epoch(cfg, make_runner):
    with pytest.raises(Stopped):
        make_runner(cfg, stop_at(5)).train()
    cfg.default_hooks.checkpoint.interval_minutes = None
    cfg.train_cfg = dict(by_epoch=True, max_epochs=3, val_interval=1)
    cfg.train_dataloader.sampler = dict(type='DefaultSampler', shuffle=False)
    cfg.resume = True
    with pytest.raises(InputError, match='EpochBasedTrainLoop can only begin one'):
        make_runner(cfg).train()
    cfg.load_from = f'{cfg.work_dir}/epoch_1.pth'
    make_runner(cfg).train()


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(interval_minutes=0), r'interval_minutes=0 should be more'),
        (dict(max_keep_by_time=0), r'max_keep_by_time=0 should be 1'),
        (dict(by_epoch=False), r'names like iter_\{\}\.pth'),
        (dict(intervall=5), "no argument 'intervall'"),
    ],
)
def test_arguments_are_checked(settings, message):
    with pytest.raises(InputError, match=message):
        CheckpointHook(**settings)


# --- What is kept -------------------------------------------------------------------


def test_those_of_earlier_starts_count_too(cfg, make_runner):
    work_dir = Path(cfg.work_dir)
    work_dir.mkdir()
    mine = ['iter_notes.pth', 'iter_1.txt']
    rubbish = [
        'iter_7.pth.part',
        'epoch_1.pth.part',
        'best_coco_AP_epoch_1.pth.part',
        'frozen_0123456789abcdef.pth.part',
        'last_checkpoint.part',
    ]
    for name in ['iter_4711.pth', *mine, *rubbish]:
        Path(work_dir, name).write_bytes(b'')
    with pytest.raises(Stopped):
        make_runner(cfg, stop_at(1)).train()
    assert by_time(work_dir) == [1, 4711]
    assert not names(work_dir, '*.part')
    with pytest.raises(Stopped):
        make_runner(cfg, stop_at(2)).train()
    assert by_time(work_dir) == [1, 2]
    assert all(Path(work_dir, name).exists() for name in mine)


def test_an_epochs_checkpoint_goes_when_the_next_is_there(
    cfg, make_runner, monkeypatch
):
    cfg.default_hooks.checkpoint.update(max_keep_ckpts=1, interval_minutes=1000)
    events = []
    real = checkpoint_hook.set_last

    def note(path, target):
        folder = Path(target).parent
        events.append((Path(target).name, names(folder, 'epoch_*')))
        real(path, target)

    monkeypatch.setattr(checkpoint_hook, 'set_last', note)
    runner = make_runner(cfg)
    runner.train()
    # Each is written again after its validation, which is better than all before.
    one, two, three = ('epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth')
    assert events == [
        (one, [one]), (one, [one]), (two, [one, two]), (two, [two]),
        (three, [two, three]), (three, [three]),
    ]  # fmt: skip
    assert names(runner.work_dir, 'epoch_*') == [three]
    assert last(runner.work_dir) == three


def test_what_a_kill_left_over_goes_with_the_next_start(cfg, make_runner):
    cfg.default_hooks.checkpoint.update(
        max_keep_ckpts=1, interval_minutes=1000, save_best=None
    )
    cfg.train_cfg.max_epochs = 2
    runner = make_runner(cfg)
    hook_of(runner)._remove_saved = lambda *args: None  # killed before that
    runner.train()
    assert names(runner.work_dir, 'epoch_*') == ['epoch_1.pth', 'epoch_2.pth']
    cfg.train_cfg.max_epochs, cfg.resume = 3, True
    make_runner(cfg).train()
    assert names(runner.work_dir, 'epoch_*') == ['epoch_3.pth']


@pytest.mark.parametrize('loop', ['iterations', 'epochs', 'resumable'])
def test_those_by_iteration_are_the_users(cfg, make_runner, loop):
    """They have the names of those by time, which go when the run is over."""
    cfg.default_hooks.checkpoint = dict(
        type='sapiens_plugin.CheckpointHook',
        interval_minutes=None,
        by_epoch=False,
        interval=2,
        max_keep_ckpts=-1,
    )
    set_warmup(cfg, 0)
    cfg.param_scheduler = None
    sampler = dict(type='InfiniteSampler' if loop == 'iterations' else 'DefaultSampler')
    if loop == 'iterations':
        cfg.train_cfg = dict(by_epoch=False, max_iters=6, val_interval=3)
        cfg.log_processor.by_epoch = False
        cfg.default_hooks.phase_switch = None
    elif loop == 'epochs':
        cfg.train_cfg = dict(by_epoch=True, max_epochs=2, val_interval=1)
    else:
        cfg.train_cfg.max_epochs = 2
        sampler = cfg.train_dataloader.sampler
    cfg.train_dataloader.sampler = sampler
    make_runner(cfg).train()
    assert by_time(cfg.work_dir) == [2, 4, 6]
    assert last(cfg.work_dir) == 'iter_6.pth'
    if loop == 'iterations':
        cfg.resume, cfg.load_from = True, f'{cfg.work_dir}/iter_4.pth'
        runner = make_runner(cfg)
        runner.train()
        assert runner.iter == 6


def test_names_may_have_leading_zeros(cfg, make_runner):
    cfg.default_hooks.checkpoint.filename_tmpl = 'epoch_{:03d}.pth'
    make_runner(cfg).train()
    assert last(cfg.work_dir) == 'epoch_003.pth'
    with pytest.raises(InputError, match='another filename_tmpl'):
        CheckpointHook(filename_tmpl='iter_{:06d}.pth')


def test_a_copy_of_a_run_leaves_the_best_of_the_original(cfg, make_runner):
    cfg.train_cfg.max_epochs = 2
    make_runner(cfg).train()
    original = Path(cfg.work_dir)
    before = names(original)
    cfg.work_dir = str(shutil.copytree(original, original.with_name('copy')))
    cfg.resume, cfg.train_cfg.max_epochs = True, 3
    make_runner(cfg).train()
    assert names(original) == before
    assert names(cfg.work_dir, 'best_*') == ['best_coco_AP_epoch_3.pth']


def test_files_of_somebody_else_are_in_nobodys_way(cfg, make_runner):
    def put(runner):
        torch.save([1, 2], Path(runner.work_dir, 'mine.pth'))

    make_runner(cfg, Do(put, at=2)).train()
    assert last(cfg.work_dir) == 'epoch_3.pth'


# --- The best -----------------------------------------------------------------------


@pytest.fixture
def falling(monkeypatch, scores):
    """Let validations score by an error: lowest first and last."""
    from mmengine.registry import METRICS

    metric = METRICS.get('CountingMetric')
    given = iter([0.1, 0.2, 0.2, 0.05])  # the second is repeated when resumed
    monkeypatch.setattr(metric, 'default_prefix', None)
    monkeypatch.setattr(metric, 'compute_metrics', lambda *_: dict(EPE=next(given)))


@pytest.mark.parametrize('name', ['EPE', 'auto'])
def test_of_errors_the_lowest_is_the_best(cfg, make_runner, falling, name):
    cfg.default_hooks.checkpoint.save_best = name
    cfg.train_cfg.max_epochs, cfg.param_scheduler = 2, None
    make_runner(cfg).train()
    assert names(cfg.work_dir, 'best_*') == ['best_EPE_epoch_1.pth']
    cfg.resume, cfg.train_cfg.max_epochs = True, 3
    make_runner(cfg).train()
    assert names(cfg.work_dir, 'best_*') == ['best_EPE_epoch_3.pth']


def test_a_rule_that_would_keep_the_worst_is_refused():
    with pytest.raises(InputError, match='keep the worst'):
        CheckpointHook(save_best='EPE', rule='greater')
    with pytest.raises(InputError, match="Say rule='greater' or rule='less'"):
        CheckpointHook(save_best=['coco/AP', 'mine'])


def test_a_score_that_there_is_not_is_told_when_all_is_saved(cfg, make_runner):
    cfg.default_hooks.checkpoint.update(
        save_best='pck/PCK', interval=5, interval_minutes=600
    )
    with pytest.raises(InputError, match=r"'pck/PCK' is no.*has coco/AP.*iter_3\.pth"):
        make_runner(cfg).train()
    cfg.default_hooks.checkpoint.save_best = 'coco/AP'
    cfg.resume = True
    assert resumed(cfg, make_runner, at=6)[0] == 3  # with the validation that failed
    assert names(cfg.work_dir, 'best_*')


# --- Whose they are -----------------------------------------------------------------


def contents(folder):
    """Return what is in a directory's checkpoints, and in the files beside them."""
    return {p.name: p.read_bytes() for p in Path(folder).iterdir() if p.is_file()}


def stop(cfg, make_runner, work_dir, at, **settings):
    """Train in a directory up to a step; return where it went on and the log."""
    cfg = cfg.copy()
    cfg.work_dir = str(work_dir)
    cfg.update(settings)
    return resumed(cfg, make_runner, at=at)


def test_a_copied_directory_goes_on_by_itself(cfg, make_runner, tmp_path):
    a, b = tmp_path / 'a', tmp_path / 'b'
    stop(cfg, make_runner, a, 4)  # with weights that do not train, in their own file
    shutil.copytree(a, b)
    stop(cfg, make_runner, a, 7, resume=True)
    before = contents(a)
    start, _ = stop(cfg, make_runner, b, 6, resume=True)
    assert start == 4 and contents(a) == before
    assert by_time(b) == [5, 6] and names(b, 'epoch_*') == ['epoch_1.pth']
    # And once more, with its own in the place of the copied ones.
    start, _ = stop(cfg, make_runner, b, 9, resume=True)
    assert start == 6 and contents(a) == before
    assert names(b, 'epoch_*') == ['epoch_1.pth', 'epoch_2.pth']


def test_a_renamed_directory_goes_on_beside_the_next_run(cfg, make_runner, tmp_path):
    job, old = tmp_path / 'job', tmp_path / 'job_old'
    stop(cfg, make_runner, job, 7)
    job.rename(old)
    stop(cfg, make_runner, job, 8)
    before = contents(job)
    start, log = stop(cfg, make_runner, old, 9, resume=True)
    assert start == 7 and contents(job) == before and 'does not exist' not in log
    assert by_time(old) == [8, 9]


def test_two_runs_on_one_disk_keep_apart(cfg, make_runner, tmp_path):
    cfg.default_hooks.checkpoint.out_dir = str(tmp_path / 'disk')
    one, other = tmp_path / 'one' / 'job', tmp_path / 'other' / 'job'
    stop(cfg, make_runner, one, 7)
    before = contents(tmp_path / 'disk' / 'job')
    _, log = stop(cfg, make_runner, other, 5)
    (folder,) = (tmp_path / 'disk').glob('job_*')
    assert f'Those of this one go to {folder}' in log
    start, _ = stop(cfg, make_runner, other, 8, resume=True)
    assert start == 5 and by_time(folder) == [7, 8]
    assert contents(tmp_path / 'disk' / 'job') == before
    start, _ = stop(cfg, make_runner, one, 9, resume=True)
    assert start == 7


def test_a_run_that_went_to_another_disk_goes_on_from_there(cfg, make_runner, tmp_path):
    job, moved = tmp_path / 'job', tmp_path / 'moved'
    stop(cfg, make_runner, job, 4)
    cfg.default_hooks.checkpoint.out_dir = str(tmp_path / 'disk')
    stop(cfg, make_runner, job, 7, resume=True)
    # The disk is not named any more, and the directory has another name.
    del cfg.default_hooks.checkpoint['out_dir']
    job.rename(moved)
    start, _ = stop(cfg, make_runner, moved, 8, resume=True)
    assert start == 7 and 8 in by_time(moved)


def test_a_copy_whose_checkpoints_lie_elsewhere_says_so(cfg, make_runner, tmp_path):
    cfg.default_hooks.checkpoint.out_dir = str(tmp_path / 'disk')
    stop(cfg, make_runner, tmp_path / 'a', 4)
    shutil.copytree(tmp_path / 'a', tmp_path / 'b')
    with pytest.raises(InputError, match=r'go on from it: --resume \S+iter_4\.pth'):
        stop(cfg, make_runner, tmp_path / 'b', 6, resume=True)
    cfg.load_from = str(tmp_path / 'disk' / 'a' / 'iter_4.pth')
    before = contents(tmp_path / 'disk' / 'a')
    start, _ = stop(cfg, make_runner, tmp_path / 'b', 7, resume=True)
    assert start == 4 and contents(tmp_path / 'disk' / 'a') == before
    assert 7 in by_time(tmp_path / 'disk' / 'b')


def test_a_restored_directory_goes_on_from_its_newest(cfg, make_runner, tmp_path):
    stop(cfg, make_runner, tmp_path / 'a', 4)
    old = contents(tmp_path / 'a')
    stop(cfg, make_runner, tmp_path / 'a', 7, resume=True)
    # A synchronisation brought the checkpoints, and not yet what names the last one.
    for name in ('last_checkpoint', 'run.json'):
        (tmp_path / 'a' / name).write_bytes(old[name])
    (tmp_path / 'a' / 'iter_4.pth').write_bytes(old['iter_4.pth'])
    assert stop(cfg, make_runner, tmp_path / 'a', 8, resume=True)[0] == 7


def test_a_directory_that_is_used_again_keeps_what_was_there(cfg, make_runner):
    with pytest.raises(Stopped):
        make_runner(cfg, stop_at(5)).train()
    work_dir = Path(cfg.work_dir)
    (work_dir / 'iter_5.pth').rename(work_dir / 'iter_90.pth')
    for name in ('iter_4.pth', 'epoch_1.pth'):
        (work_dir / name).unlink()
    left = {path: path.read_bytes() for path in work_dir.glob('*.pth')}
    assert len(left) == 3  # iter_90, its frozen weights and the best one
    for path in list(left):
        if path.name.startswith('best_'):
            left[path.rename(work_dir / 'best_coco_AP_epoch_90.pth')] = left.pop(path)
    make_runner(cfg).train()
    assert {path: path.read_bytes() for path in left} == left


def test_one_that_was_named_brings_no_claims_with_it(cfg, make_runner, tmp_path):
    stop(cfg, make_runner, tmp_path / 'a', 4)  # keeps epoch_1.pth
    stop(cfg, make_runner, tmp_path / 'b', 8)
    (tmp_path / 'b' / 'epoch_2.pth').unlink()
    mine = (tmp_path / 'b' / 'epoch_1.pth').read_bytes()
    cfg.default_hooks.checkpoint.max_keep_ckpts = 1
    stop(
        *(cfg, make_runner, tmp_path / 'b', 7),
        resume=True,
        load_from=str(tmp_path / 'a' / 'iter_4.pth'),
    )
    assert (tmp_path / 'b' / 'epoch_1.pth').read_bytes() == mine
    assert names(tmp_path / 'b', 'epoch_*') == ['epoch_1.pth', 'epoch_2.pth']


def test_one_of_another_run_that_was_named_is_taken_again(cfg, make_runner, tmp_path):
    a, b = tmp_path / 'a', tmp_path / 'b'
    stop(cfg, make_runner, a, 4)
    stop(cfg, make_runner, b, 7)
    cfg.default_hooks.checkpoint.interval_minutes = 1000
    named = str(a / 'iter_4.pth')
    stop(cfg, make_runner, b, 5, resume=True, load_from=named)  # saves nothing
    start, _ = stop(cfg, make_runner, b, 7, resume=True)
    assert start == 4 and names(b, 'epoch_*') == ['epoch_1.pth', 'epoch_2.pth']
    assert stop(cfg, make_runner, b, 8, resume=True)[0] == 6  # its own since then


def test_one_of_whatever_name_is_taken_again(cfg, make_runner, tmp_path):
    stop(cfg, make_runner, tmp_path / 'a', 5)
    kept = (tmp_path / 'a' / 'iter_4.pth').rename(tmp_path / 'a' / 'keep.pth')
    cfg.default_hooks.checkpoint.interval_minutes = 1000
    stop(cfg, make_runner, tmp_path / 'a', 5, resume=True, load_from=str(kept))
    assert stop(cfg, make_runner, tmp_path / 'a', 6, resume=True)[0] == 4


def test_a_file_that_was_put_in_the_place_of_its_own_stays(cfg, make_runner, tmp_path):
    stop(cfg, make_runner, tmp_path / 'a', 4)
    other = (tmp_path / 'a' / 'epoch_1.pth').read_bytes()
    cfg.default_hooks.checkpoint.max_keep_ckpts = 1
    cfg.work_dir = str(tmp_path / 'b')

    def put(runner):
        (tmp_path / 'b' / 'epoch_1.pth').write_bytes(other)

    with pytest.raises(Stopped):
        make_runner(cfg, Do(put, at=4), stop_at(7)).train()
    assert (tmp_path / 'b' / 'epoch_1.pth').read_bytes() == other


# --- Weights that do not train ------------------------------------------------------


def test_frozen_weights_are_kept_once(cfg, make_runner, monkeypatch):
    seen = {}

    def look(runner):
        folder = Path(runner.work_dir)
        seen[runner.iter + 1] = names(folder, 'frozen_*')
        state = torch.load(folder / f'iter_{runner.iter + 1}.pth')['state_dict']
        in_file = any(name.startswith('backbone.') for name in state)
        assert in_file == (runner.epoch >= 2)  # of 0, 1 and 2
        whole = load_from_local(folder / f'iter_{runner.iter + 1}.pth')
        for name, value in runner.model.state_dict().items():
            assert torch.equal(whole['state_dict'][name], value)

    runner = make_runner(cfg, Do(look))
    with monkeypatch.context() as patch:
        written = []
        real = checkpoint_hook.frozen.digest_of
        patch.setattr(
            checkpoint_hook.frozen, 'digest_of', lambda w: written.append(w) or real(w)
        )
        runner.train()
    assert len(written) == 1  # hashed once, not at every checkpoint
    (file,) = seen[1]
    assert [seen[i] for i in range(1, 8)] == [[file]] * 7
    assert seen[8] == seen[9] == []  # iter_6.pth was the last to need it
    for name in names(runner.work_dir, 'epoch_*') + names(runner.work_dir, 'best_*'):
        state = torch.load(Path(runner.work_dir, name))['state_dict']
        assert state.keys() == runner.model.state_dict().keys()


def test_a_run_goes_on_from_one_without_its_frozen_weights(cfg, make_runner):
    whole = make_runner(cfg)
    whole.train()
    cfg.work_dir += '_stopped'
    with pytest.raises(Stopped):
        make_runner(cfg, stop_at(5)).train()
    # Where pre-trained weights are announced, a resumed run does not look for them.
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint='gone.pth')
    cfg.resume = True
    steps = []
    resumed = make_runner(cfg, Do(lambda r: steps.append(r.iter)))
    resumed.train()
    assert steps == [5, 6, 7, 8]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value)
    (file,) = re.findall(r'did not train come from (.*)\.\n', log_of(resumed))
    assert Path(file).name.startswith('frozen_')


def test_without_the_frozen_file_the_one_before_is_taken(cfg, make_runner):
    with pytest.raises(Stopped):
        make_runner(cfg, stop_at(5)).train()
    for path in Path(cfg.work_dir).glob('frozen_*'):
        path.unlink()
    cfg.resume = True
    runner = make_runner(cfg, stop_at(4))
    with pytest.raises(Stopped):
        runner.train()
    log = log_of(runner)
    assert 'iter_5.pth lacks the weights that did not train' in log
    assert 'goes on from' in log and 'epoch_1.pth.' in log


def test_an_averaged_model_keeps_everything(cfg, make_runner):
    cfg.custom_hooks = [dict(type='EMAHook')]
    with pytest.raises(Stopped):
        make_runner(cfg, stop_at(2)).train()
    assert not names(cfg.work_dir, 'frozen_*')
    checkpoint = torch.load(Path(cfg.work_dir, 'iter_2.pth'))
    assert any(name.startswith('backbone.') for name in checkpoint['state_dict'])


# --- A disk that does not take them -------------------------------------------------


@pytest.fixture
def disk(cfg, monkeypatch):
    """A disk of so many bytes, for what lies in the work directory."""
    disk = SimpleNamespace(size=10**12)

    def usage(folder):
        files = [p for p in Path(folder).glob('*') if p.suffix in ('.pth', '.part')]
        return SimpleNamespace(free=disk.size - sum(p.stat().st_size for p in files))

    monkeypatch.setattr(saving, '_reserve', 0)
    monkeypatch.setattr(saving.shutil, 'disk_usage', usage)
    return disk


@pytest.fixture
def refusing(monkeypatch):
    """Names of checkpoints that cannot be written, as in a read-only directory."""
    from sapiens_plugin.compat import checkpoints

    refusing, real = set(), checkpoints.save_to_local

    def save(checkpoint, path):
        if Path(path).name in refusing or 'all' in refusing:
            raise CheckpointNotWritten(Path(path), 'Read-only file system')
        real(checkpoint, path)

    monkeypatch.setattr(checkpoints, 'save_to_local', save)
    return refusing


@pytest.fixture
def clock(monkeypatch):
    """A clock of whole seconds that stands still unless it is set."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(
        checkpoint_hook, 'time', SimpleNamespace(monotonic=lambda: clock.now)
    )
    return clock


@pytest.fixture
def real_disk(tmp_path):
    """A disk of 8 MiB in memory: its directory, and what mounts and unmounts."""
    folder = tmp_path / 'disk'
    folder.mkdir()

    def call(*command):
        answer = subprocess.run([*command, folder], capture_output=True, check=False)
        return answer.returncode == 0

    if not call('mount', '-t', 'tmpfs', '-o', 'size=8m', 'tmpfs'):
        pytest.skip('mounting a tmpfs is not permitted here')
    try:
        yield folder, call
    finally:
        while call('umount', '-l'):  # what lies over it first
            pass


@pytest.mark.skipif(sys.platform != 'linux', reason='mounts a tmpfs')
def test_a_real_disk_that_fills_and_becomes_read_only(
    cfg, make_runner, real_disk, monkeypatch
):
    folder, call = real_disk
    monkeypatch.setattr(saving, '_reserve', -(10**9))  # to be told by the disk itself
    monkeypatch.setattr(checkpoint_hook, '_RETRY', 0)
    cfg.visualizer.vis_backends.append(dict(type='sapiens_plugin.CsvVisBackend'))
    undisturbed = make_runner(cfg)
    undisturbed.train()
    cfg.work_dir = str(folder / 'work')
    filler = folder / 'filler'

    def spoil(runner):
        iteration = runner.iter + 1
        if iteration == 2:
            with filler.open('wb', buffering=0) as file, suppress(OSError):
                while True:
                    file.write(bytes(4096))
        elif iteration == 4:
            filler.unlink()
        elif iteration == 6:  # over it, since a disk with open files will not be
            assert call('mount', '--bind', folder)
            assert call('mount', '-o', 'remount,bind,ro')
        elif iteration == 8:
            assert call('umount')

    runner = make_runner(cfg, Do(spoil))
    runner.train()
    log = log_of(runner)
    assert 'epoch_1.pth could not be written: No space left on device' in log
    assert 'epoch_2.pth could not be written: Read-only file system' in log
    assert names(folder / 'work', '*.part') == []
    assert last(runner.work_dir) == 'epoch_3.pth'
    saved = load_from_local(f'{runner.work_dir}/epoch_3.pth')
    for name, value in undisturbed.model.state_dict().items():
        assert torch.equal(saved['state_dict'][name], value), name


@pytest.mark.skipif(sys.platform != 'linux', reason='mounts a tmpfs')
def test_a_validation_without_room_for_its_results_goes_on(
    cfg, make_runner, real_disk, monkeypatch
):
    folder, _ = real_disk
    monkeypatch.setattr(tempfile, 'tempdir', str(folder))  # where they go
    data = cfg.val_dataloader.dataset
    cfg.val_evaluator = dict(
        type='CocoMetric', ann_file=f'{data.data_root}/{data.ann_file}'
    )

    class Fill(Hook):
        def before_val_epoch(self, runner):
            if runner.epoch == 2:
                with (folder / 'filler').open('wb', buffering=0) as file:
                    with suppress(OSError):
                        while True:
                            file.write(bytes(4096))

        def after_val_epoch(self, runner, metrics=None):
            (folder / 'filler').unlink(missing_ok=True)
            results.append('coco/AP' in metrics)

    results = []
    runner = make_runner(cfg, Fill())
    runner.train()
    assert results == [True, False, True]
    assert 'This validation has no result: [Errno 28]' in log_of(runner)
    # A test is for its result.
    cfg.test_evaluator, cfg.load_from = cfg.val_evaluator, None
    runner = make_runner(cfg)
    monkeypatch.setattr(CocoMetric, 'compute_metrics', _refused)
    with pytest.raises(OSError, match='No space left'):
        runner.test()


def _refused(*args):
    raise OSError(errno.ENOSPC, 'No space left on device')


def test_the_older_of_two_makes_room(cfg, make_runner, disk):
    cfg.default_hooks.checkpoint.update(interval=10, save_best=None)
    seen = {}

    def fill(runner):
        seen[runner.iter + 1] = by_time(runner.work_dir)
        if runner.iter + 1 == 2:
            used = sum(p.stat().st_size for p in Path(runner.work_dir).glob('*.pth'))
            disk.size = used + 1000

    runner = make_runner(cfg, Do(fill))
    with pytest.raises(InputError, match='its last state could not be saved'):
        runner.train()  # phase 2 needs more than there is
    assert seen[2] == [1, 2] and seen[3] == [2, 3] and seen[4] == [3, 4]
    log = log_of(runner)
    assert 'could not be written: No space left' in log
    assert 'iter_1.pth is given up: a newer one needs the room.' in log
    # Where it would not be enough, none is.
    assert by_time(runner.work_dir) == [5, 6] and 'iter_5.pth is given up' not in log
    assert last(runner.work_dir) == 'iter_6.pth'
    assert not names(runner.work_dir, '*.part')


def test_who_leaves_may_fill_the_disk(cfg, make_runner, disk, monkeypatch):
    cfg.default_hooks.checkpoint.update(interval=10, interval_minutes=1000)
    monkeypatch.setattr(saving, '_reserve', 10**12)
    saved = []

    def leave(runner):
        disk.size = 10**8
        hook = hook_of(runner)
        assert hook._save_by_time(runner) is None
        saved.append(hook.save_now(runner))
        disk.size = 0
        hook._just_saved = None
        assert hook.save_now(runner) is None
        raise Stopped

    runner = make_runner(cfg, Do(leave, at=4))
    with pytest.raises(Stopped):
        runner.train()
    assert load_from_local(saved[0])['meta']['iter'] == 4
    *_, first, last_warning = log_of(runner).split('WARNING - ')
    assert 'could not be written' in first and 'in a minute' in first
    assert 'iter_4.pth could not be written' in last_warning
    assert 'minute' not in last_warning and 'goes on' not in last_warning


def test_a_full_disk_does_not_stop_the_run(cfg, make_runner, disk, clock):
    cfg.default_hooks.checkpoint.update(
        interval=10, save_best=None, save_last=False, interval_minutes=5
    )
    set_warmup(cfg, 0)
    disk.size = 0
    seen = {}

    def go_on(runner):
        seen[runner.iter + 1] = by_time(runner.work_dir)
        clock.now += {1: 300, 2: 59, 3: 1, 4: 59, 5: 1}.get(runner.iter + 1, 0)
        if runner.iter + 1 == 4:
            disk.size = 10**12

    runner = make_runner(cfg, Do(go_on))
    runner.train()
    # Tried at 2 (five minutes), 4 (one minute) and, with room again, at 6.
    assert seen == {i: [] if i < 6 else [6] for i in range(1, 10)}
    assert re.findall(
        r'iter_(\d)\.pth could not be written: No space left on device \(it needs '
        r'0\.7 MB; there are .*\)\. The run goes on.* It is tried again in a minute\.',
        log_of(runner),
    ) == ['2', '4']


def test_an_epochs_checkpoint_is_made_up_for(cfg, make_runner, refusing, clock):
    cfg.default_hooks.checkpoint.update(
        interval_minutes=1000, save_best=None, max_keep_ckpts=1
    )
    refusing.add('epoch_2.pth')

    def minutes(runner):
        clock.now += 60

    runner = make_runner(cfg, Do(minutes), stop_at(9))
    with pytest.raises(Stopped):
        runner.train()
    log = log_of(runner)
    assert 'epoch_2.pth could not be written: Read-only file system. The run' in log
    assert by_time(runner.work_dir) == [8]
    assert names(runner.work_dir, 'epoch_*') == ['epoch_1.pth']
    assert load_from_local(f'{runner.work_dir}/iter_8.pth')['message_hub'][
        'runtime_info'
    ]['keep_ckpt_ids'] == [1]  # two is not there to be removed
    assert not names(runner.work_dir, '*.part')


def test_what_was_made_up_for_is_not_owed(cfg, make_runner, refusing, clock):
    cfg.default_hooks.checkpoint.update(
        interval=2, save_last=False, interval_minutes=1000, save_best=None
    )
    refusing.add('epoch_2.pth')

    def minutes(runner):
        clock.now += 60

    runner = make_runner(cfg, Do(minutes))
    runner.train()
    assert names(runner.work_dir, '*.pth') == ['iter_8.pth']


def test_the_last_state_is_tried_twice(cfg, make_runner, refusing):
    cfg.default_hooks.checkpoint.update(interval=10, save_best=None)
    refusing.add('epoch_3.pth')

    class Mend(Hook):
        priority = 'VERY_HIGH'

        def after_train(self, runner):
            refusing.clear()

    runner = make_runner(cfg)
    runner.register_hook(Mend())
    runner.train()
    meta = load_from_local(f'{runner.work_dir}/epoch_3.pth')['meta']
    assert (meta['epoch'], meta['iter'], meta['validation_due']) == (3, 9, False)
    assert last(runner.work_dir) == 'epoch_3.pth'


def test_a_lost_last_state_is_an_error(cfg, make_runner, refusing):
    cfg.default_hooks.checkpoint.update(interval=10, save_best=None)
    refusing.add('epoch_3.pth')
    with pytest.raises(InputError) as caught:
        make_runner(cfg).train()
    message = str(caught.value)
    assert 'epoch_3.pth: Read-only file system. The newest checkpoint is' in message
    assert f'{cfg.work_dir}/iter_9.pth. ' in message and '--resume' in message

    cfg.resume = True
    refusing.clear()
    make_runner(cfg).train()
    assert last(cfg.work_dir) == 'epoch_3.pth'


def test_no_state_at_all_is_an_error(cfg, make_runner, refusing):
    refusing.add('all')
    with pytest.raises(InputError, match=r'no other checkpoint\. Mend that'):
        make_runner(cfg).train()
    assert not names(cfg.work_dir, '*_[0-9].pth*')


def test_the_best_is_never_lost(cfg, make_runner, refusing, scores):
    scores[:3] = [0.1, 0.3, 0.2]  # the second best has its chance
    refusing.add('best_coco_AP_epoch_2.pth')
    runner = make_runner(cfg)
    runner.train()
    assert names(runner.work_dir, 'best_*') == ['best_coco_AP_epoch_3.pth']
    assert runner.message_hub.get_info('best_score') == 0.2
    state = load_from_local(f'{runner.work_dir}/best_coco_AP_epoch_3.pth')
    assert 'optimizer' not in state
    assert 'best_coco_AP_epoch_2.pth could not be written' in log_of(runner)

    refusing.add('best_coco_AP_epoch_4.pth')
    cfg.train_cfg.max_epochs, cfg.resume = 4, True
    runner = make_runner(cfg)
    runner.train()
    assert names(runner.work_dir, 'best_*') == ['best_coco_AP_epoch_3.pth']
    assert runner.message_hub.get_info('best_score') == 0.2
    infos = load_from_local(f'{cfg.work_dir}/epoch_4.pth')['message_hub']
    assert infos['runtime_info']['best_score'] == 0.2


def test_what_cannot_be_removed_is_told(cfg, make_runner, monkeypatch):
    def refuse(path, missing_ok=False):
        raise PermissionError(13, 'Permission denied', str(path))

    runner = make_runner(cfg, stop_at(3))
    monkeypatch.setattr(Path, 'unlink', refuse)
    monkeypatch.setattr(
        'sapiens_plugin.core.utils.whole_file.part_of', lambda p: NoUnlink(p)
    )
    with pytest.raises(Stopped):
        runner.train()
    assert by_time(runner.work_dir) == [1, 2, 3]
    assert 'iter_1.pth could not be removed: Permission denied' in log_of(runner)


class NoUnlink(type(Path())):
    """The name of a part, which is no old file."""

    def __new__(cls, path):
        return super().__new__(cls, f'{path}.part')

    def unlink(self, missing_ok=False):
        if self.exists():
            os.unlink(self)  # noqa: PTH108


def test_when_all_is_over_those_by_time_are_of_no_use(cfg, make_runner):
    make_runner(cfg).train()
    assert by_time(cfg.work_dir) == []
    assert not list(Path(cfg.work_dir).glob('frozen_*'))
    assert last(cfg.work_dir).startswith('epoch_')


def test_a_clock_that_was_put_back_costs_no_checkpoint(stopped, make_runner):
    for name in ('iter_4.pth', 'iter_5.pth'):
        future = time.time() + 7200
        os.utime(f'{stopped.work_dir}/{name}', (future, future))
    resumed(stopped, make_runner)
    assert last(stopped.work_dir) == 'iter_9.pth'
    assert 9 in by_time(stopped.work_dir) and len(by_time(stopped.work_dir)) == 2


def test_a_pointer_that_cannot_be_written_costs_no_checkpoint(
    cfg, make_runner, monkeypatch
):
    real = checkpoint_hook.set_last

    def refuse(work_dir, path):
        if Path(path).name == 'iter_8.pth':
            raise CheckpointNotWritten(path, 'No space left on device', lacks=0)
        real(work_dir, path)

    def put_clock_back(runner):
        for path in Path(runner.work_dir).glob('iter_*.pth'):
            os.utime(path, (time.time() + 3600, path.stat().st_mtime + 3600))

    runner = make_runner(cfg, Do(put_clock_back, at=7), stop_at(8))
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(checkpoint_hook, 'set_last', refuse)
        runner.train()
    assert by_time(cfg.work_dir) == [7, 8]
    assert 'iter_8.pth is whole; go on from it with --resume' in log_of(runner)
    cfg.resume = True
    assert resumed(cfg, make_runner)[0] == 8


def test_what_was_gone_back_to_is_the_last(stopped, make_runner, refusing):
    stopped.load_from = f'{stopped.work_dir}/epoch_1.pth'
    refusing.add('all')  # leaves before anything is saved
    with pytest.raises(Stopped):
        make_runner(stopped, stop_at(4)).train()
    refusing.clear()
    stopped.load_from = None
    assert resumed(stopped, make_runner)[0] == 3


def test_the_config_of_a_resumed_run_can_be_tested_with(cfg, make_runner):
    cfg.train_cfg.max_epochs, cfg.param_scheduler = 1, None
    make_runner(cfg).train()
    (best,) = Path(cfg.work_dir).glob('best_*.pth')
    cfg.resume, cfg.load_from = True, str(best)
    cfg.test_evaluator = cfg.val_evaluator
    assert 'coco/AP' in make_runner(cfg).test()


def test_a_copy_of_a_checkpoint_keeps_its_frozen_weights(cfg, make_runner):
    def copy(runner):
        shutil.copy(f'{runner.work_dir}/iter_4.pth', f'{runner.work_dir}/mine.pth')

    make_runner(cfg, Do(copy, at=4)).train()
    assert load_from_local(f'{cfg.work_dir}/mine.pth')['meta']['iter'] == 4


def test_frozen_weights_that_were_written_to_are_saved_anew(cfg, make_runner):
    def write(runner):
        with torch.no_grad():
            next(runner.model.backbone.parameters()).add_(1)

    runner = make_runner(cfg, Do(write, at=1), stop_at(3))
    with pytest.raises(Stopped):
        runner.train()
    name, value = next(iter(runner.model.backbone.named_parameters()))
    saved = load_from_local(f'{cfg.work_dir}/iter_3.pth')['state_dict']
    assert torch.equal(saved[f'backbone.{name}'], value)


def test_frozen_weights_that_were_damaged_are_saved_anew(cfg, make_runner):
    def spoil(runner):
        (path,) = Path(runner.work_dir).glob('frozen_*.pth')
        damage(path)

    with pytest.raises(Stopped):
        make_runner(cfg, Do(spoil, at=3), stop_at(4)).train()
    for iteration in (3, 4):  # they have the same ones
        load_from_local(f'{cfg.work_dir}/iter_{iteration}.pth')


def test_after_out_dir_was_changed_the_old_place_is_looked_at(stopped, make_runner):
    damage(f'{stopped.work_dir}/iter_5.pth')
    stopped.default_hooks.checkpoint.out_dir = f'{stopped.work_dir}/elsewhere'
    assert resumed(stopped, make_runner)[0] == 4


def test_one_by_time_that_is_the_last_state_stays(cfg, make_runner):
    cfg.default_hooks.checkpoint.update(interval=-1, save_last=False)
    make_runner(cfg).train()
    assert last(cfg.work_dir) == f'iter_{by_time(cfg.work_dir)[-1]}.pth'


# --- What is resumed from -----------------------------------------------------------


@pytest.fixture
def stopped(cfg, make_runner):
    """Return the config of a run that was stopped after five steps."""
    with pytest.raises(Stopped):
        make_runner(cfg, stop_at(5)).train()
    assert by_time(cfg.work_dir) == [4, 5] and last(cfg.work_dir) == 'iter_5.pth'
    cfg.resume = True
    return cfg


def resumed(cfg, make_runner, *, at=9):
    runner = make_runner(cfg, stop_at(at))
    starts = []

    class Note(Hook):
        def before_train(self, runner):
            starts.append(runner.iter)

    runner.register_hook(Note())
    with pytest.raises(Stopped):
        runner.train()
    return starts[0], log_of(runner)


def test_resuming_takes_the_last(stopped, make_runner):
    start, log = resumed(stopped, make_runner)
    assert start == 5 and 'is damaged' not in log


def test_a_damaged_last_one_is_passed_over(stopped, make_runner):
    damage(f'{stopped.work_dir}/iter_5.pth')
    start, log = resumed(stopped, make_runner)
    assert start == 4
    assert re.search(r'iter_5\.pth is damaged.* goes on from .*iter_4\.pth\.', log)
    # It is out of the way, and was not one of the two that are kept.
    assert Path(stopped.work_dir, 'iter_5.pth.damaged').is_file()
    assert by_time(stopped.work_dir) == [8, 9]


def test_a_missing_last_one_is_passed_over(stopped, make_runner):
    for name in ('iter_5.pth', 'iter_4.pth'):
        Path(stopped.work_dir, name).unlink()
    start, log = resumed(stopped, make_runner)
    assert start == 3
    assert re.search(r'iter_5\.pth, the last.*goes on from .*epoch_1\.pth\.', log)


def test_without_last_checkpoint_the_newest_is_taken(stopped, make_runner):
    Path(stopped.work_dir, 'last_checkpoint').unlink()
    assert resumed(stopped, make_runner)[0] == 5


def test_where_all_are_damaged_nothing_starts(stopped, make_runner):
    for path in Path(stopped.work_dir).glob('*.pth'):
        damage(path)
    with pytest.raises(InputError, match='There is no whole checkpoint') as caught:
        make_runner(stopped).train()
    for name in ('iter_4.pth', 'iter_5.pth', 'epoch_1.pth'):
        assert name in str(caught.value)


def test_where_there_is_none_the_run_starts_anew_and_says_so(cfg, make_runner):
    cfg.resume = True
    start, log = resumed(cfg, make_runner)
    assert start == 0 and 'to resume from: the run starts anew' in log


def test_a_damaged_file_that_was_asked_for_is_refused(stopped, make_runner):
    stopped.load_from = f'{stopped.work_dir}/iter_4.pth'
    damage(stopped.load_from)
    with pytest.raises(InputError) as caught:
        make_runner(stopped).train()
    message = str(caught.value)
    assert 'iter_4.pth is damaged' in message
    assert re.search(r'Whole ones beside it: \S*iter_5\.pth and \S*epoch_1', message)


def test_a_file_that_is_not_there_is_told_with_those_that_are(stopped, make_runner):
    stopped.load_from = f'{stopped.work_dir}/iter_99.pth'
    with pytest.raises(InputError, match=r'iter_99\.pth does not exist\. Whole ones'):
        make_runner(stopped).train()


def test_a_damaged_file_is_not_tested(stopped, make_runner):
    stopped.resume = False
    stopped.load_from = f'{stopped.work_dir}/iter_5.pth'
    stopped.test_evaluator = dict(type='CountingMetric')
    make_runner(stopped).test()  # with its frozen weights
    damage(stopped.load_from)
    with pytest.raises(InputError, match=r'iter_5\.pth is damaged'):
        make_runner(stopped).test()


def test_checkpoints_in_another_directory(cfg, make_runner, tmp_path):
    cfg.default_hooks.checkpoint.out_dir = str(tmp_path / 'disk')
    with pytest.raises(Stopped):
        make_runner(cfg, stop_at(5)).train()
    folder = tmp_path / 'disk' / 'work'
    assert by_time(folder) == [4, 5] and names(folder, 'epoch_*') == ['epoch_1.pth']
    damage(folder / 'iter_5.pth')
    cfg.resume = True
    assert resumed(cfg, make_runner)[0] == 4
    shutil.rmtree(folder)
    with pytest.raises(InputError, match='the last checkpoint, does not exist'):
        make_runner(cfg).train()
