"""The log line and the scalars of a run whose time is simulated."""

import csv
import json
import re
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sapiens_plugin import recipe
from sapiens_plugin.core.streaming import precision
from sapiens_plugin.engine.hooks import status_hook
from sapiens_plugin.engine.logging import status_log_processor
from sapiens_plugin.engine.logging.status_log_processor import rates_by_depth
from sapiens_plugin.errors import InputError
from sapiens_plugin.jobs import announce_plan
from sapiens_plugin.jobs.read_config import planned_job
from sapiens_plugin.workbench.job.job import Persons
from sapiens_plugin.workbench.planning.arithmetic import person_work, training_work
from sapiens_plugin.workbench.report.work_dir import read_plan

HEAD_STEP, FULL_STEP, VALIDATION = 100.0, 600.0, 7200.0  # s


class SimulatedTime(Hook):
    """Lets time pass in steps and validations, and nowhere else."""

    priority = 'VERY_HIGH'

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(status_hook, 'perf_counter', lambda: self.now)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.now += FULL_STEP if runner.epoch else HEAD_STEP

    def after_val_epoch(self, runner, metrics=None):
        self.now += VALIDATION


def watched(cfg):
    """Three epochs of three steps: the head alone, then everything twice."""
    cfg.default_hooks.phase_switch.warmup_epochs = 1
    cfg.train_cfg.val_interval = 1
    cfg.param_scheduler = None
    cfg.optim_wrapper.paramwise_cfg.layer_decay_rate = 0.5
    cfg.model.train_cfg.compute_acc = True
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1)
    return cfg


@pytest.fixture
def job(demo_config):
    return watched(demo_config)


def stream(job):
    recipe.streamed(micro_batch=4)(job)


def train(job, make_runner, monkeypatch):
    runner = make_runner(job)
    runner.register_hook(SimulatedTime(monkeypatch))
    runner.train()
    return runner


@pytest.fixture(scope='module')
def runs(make_demo_config, demo, make_runner, tmp_path_factory):
    """A whole run, one that resumes its last epoch, and what W&B was sent."""
    cfg = watched(make_demo_config(demo, tmp_path_factory.mktemp('watched') / 'work'))
    cfg.visualizer.vis_backends = [
        dict(type='LocalVisBackend'),
        dict(type='TensorboardVisBackend'),
        dict(type='sapiens_plugin.CsvVisBackend'),
        dict(type='WandbVisBackend'),
    ]
    sent = []
    wandb = SimpleNamespace(
        init=lambda **kwargs: None,
        config=SimpleNamespace(update=lambda *args, **kwargs: None),
        run=SimpleNamespace(log_code=lambda **kwargs: None),
        log=lambda values, **kwargs: sent.append(values),
        Image=lambda image: image.shape,
        join=lambda: sent.append('closed'),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, 'wandb', wandb)
        whole = train(cfg, make_runner, patch)
        sent_by_whole = sent[:]
        cfg.resume, cfg.load_from = True, f'{cfg.work_dir}/epoch_2.pth'
        resumed = train(cfg, make_runner, patch)
    return SimpleNamespace(cfg=cfg, whole=whole, resumed=resumed, sent=sent_by_whole)


def lines(runner) -> list[str]:
    (log,) = Path(runner.log_dir).glob('*.log')
    text = log.read_text(encoding='utf-8')
    return re.findall(r'INFO - ((?:head alone|everything|last|epoch) .*)', text)


def records(runner, *, training=True) -> list[dict]:
    path = Path(runner.log_dir) / 'vis_data' / 'scalars.json'
    found = map(json.loads, path.read_text(encoding='utf-8').splitlines())
    return [record for record in found if ('epoch' in record) == training]


def test_a_line_says_where_the_training_is_and_how_it_does(runs):
    said = [line.split(' | ') for line in lines(runs.whole)]
    assert [line[:3] for line in said] == [
        [phase, f'epoch {epoch}/3', f'step {step}/3']
        for epoch, phase in ((1, 'head alone'), (2, 'everything'), (3, 'everything'))
        for step in (1, 2, 3)
    ]
    lr = runs.cfg.optim_wrapper.optimizer.lr
    for line, record in zip(said, records(runs.whole), strict=True):
        loss, accuracy = float(line[3].split()[1]), float(line[4].split()[1])
        assert line[3].startswith('loss ') and line[4].startswith('acc_pose ')
        assert loss == pytest.approx(record['loss'], rel=1e-3)
        assert accuracy == pytest.approx(record['acc_pose'], abs=1e-3)
        trains_all = record['epoch'] > 1
        assert line[5] == f'lr {lr:g}' + trains_all * f' (stem {lr / 8:.2g})'
        speed = 8 / (FULL_STEP if trains_all else HEAD_STEP)
        assert line[6] == f'{speed:.3g} persons/s'
        assert record['persons_per_second'] == pytest.approx(speed)
        assert line[7] == 'no GPU'
        assert re.fullmatch(r'host \d+\.\d GiB', line[8])
        assert 100 < record['host_memory_mib'] < 20_000
        assert len(line) == 10


def test_the_time_left_is_what_the_run_then_takes(runs):
    left = [line.split(' | ')[9] for line in lines(runs.whole)]
    # In phase 2 all has been measured that is to come: six steps, two validations.
    texts = ('4 h 50 min', '4 h 40 min', '4 h 30 min', '2 h 20 min', '2 h 10 min')
    assert left[3:] == [
        f'left: phase {text}, job {text}' for text in (*texts, '2 h 00 min')
    ]
    seconds = [
        steps * FULL_STEP + validations * VALIDATION
        for steps, validations in ((5, 2), (4, 2), (3, 2), (2, 1), (1, 1), (0, 1))
    ]
    logged = [3600 * r['hours_left'] for r in records(runs.whole) if r['phase'] == 2]
    assert logged == pytest.approx(seconds)


def test_what_is_to_come_is_estimated_from_arithmetic(runs):
    persons = len(runs.whole.val_dataloader.dataset)
    task = planned_job(runs.cfg, Persons(train=24, val=persons, test=0))
    head_only = training_work(task, warmup=True, recomputed=0).flop
    everything = training_work(task, warmup=False, recomputed=0).flop
    prediction = person_work(task, flip=False).flop
    work = 6 * 8 * everything + 3 * persons * prediction
    last = records(runs.whole)[2]
    assert (last['epoch'], last['phase']) == (1, 1)
    seconds = work / (8 * head_only) * HEAD_STEP
    assert 3600 * last['hours_left'] == pytest.approx(seconds)
    assert re.search('left: phase ~.+, job ~', lines(runs.whole)[2])


def test_a_resumed_run_knows_its_time_at_its_first_line(runs):
    first = lines(runs.resumed)[0]
    assert first.startswith('everything | epoch 3/3 | step 1/3 | ')
    # Two steps; and a validation, which this start has not seen.
    (left,) = re.findall(r'job ~(\d+) min', first)
    assert 2 * FULL_STEP / 60 < int(left) < 3 * FULL_STEP / 60


def test_tensorboard_has_it_all(runs):
    events = EventAccumulator(f'{runs.whole.log_dir}/vis_data', {'images': 0})
    events.Reload()
    tags = events.Tags()
    rates = {'lr/stem', 'lr/block_0', 'lr/block_1', 'lr/head'}
    assert rates | {
        'loss', 'acc_pose', 'grad_norm', 'coco/AP', 'persons_per_second', 'hours_left',
        'host_memory_mib', 'phase',
    } <= set(tags['scalars'])  # fmt: skip

    def series(name):
        return {event.step: event.value for event in events.Scalars(name)}

    assert list(series('loss')) == list(series('grad_norm')) == list(range(1, 10))
    assert all(value > 0 for value in series('grad_norm').values())
    assert list(series('coco/AP')) == [1, 2, 3]
    lr = runs.cfg.optim_wrapper.optimizer.lr
    scales = {'lr/head': 1, 'lr/block_1': 0.5, 'lr/block_0': 0.25, 'lr/stem': 0.125}
    for name, scale in scales.items():
        assert series(name)[4] == pytest.approx(lr * scale)
        held = name != 'lr/head'
        assert series(name)[3] == pytest.approx(0 if held else lr)

    assert tags['images'] == ['validation_persons']
    assert [event.step for event in events.Images('validation_persons')] == [1, 2, 3]


def test_the_table_goes_on_through_a_resumption(runs):
    with open(f'{runs.cfg.work_dir}/metrics.csv', encoding='utf-8', newline='') as file:
        rows = list(csv.DictReader(file))

    def epoch(n):
        steps = [('train', str(n), str(3 * (n - 1) + i)) for i in (1, 2, 3)]
        return [*steps, ('validation', str(n), '')]

    kinds = [(row['record'], row['epoch'], row['iter']) for row in rows]
    assert kinds == [*epoch(1), *epoch(2), *epoch(3), *epoch(3)]
    for run, part in ((runs.whole, rows[:12]), (runs.resumed, rows[12:])):
        assert {row['start'] for row in part} == {run.timestamp}
        for training, kind in ((True, 'train'), (False, 'validation')):
            written = [row for row in part if row['record'] == kind]
            logged = records(run, training=training)
            for row, record in zip(written, logged, strict=True):
                step = record.pop('step')
                assert step == int(row['iter'] or row['epoch'])
                assert {name: float(row[name]) for name in record} == record
    assert rows[3]['coco/AP'] != '' and rows[0]['coco/AP'] == ''


def test_weights_and_biases_takes_one_line(repo, tmp_path):
    base = (repo / 'configs' / 'sapiens1b_gtx1650_week.py').as_posix()
    (tmp_path / 'own.py').write_text(
        f'_base_ = {base!r}\n'
        'visualizer = dict(\n'
        "    vis_backends=[*_base_.vis_backends, dict(type='WandbVisBackend')])\n",
        encoding='utf-8',
    )
    backends = Config.fromfile(tmp_path / 'own.py').visualizer.vis_backends
    assert [backend.type for backend in backends] == [
        'LocalVisBackend', 'TensorboardVisBackend', 'sapiens_plugin.CsvVisBackend',
        'WandbVisBackend',
    ]  # fmt: skip


def test_weights_and_biases_gets_the_same(runs):
    trained = [values for values in runs.sent if 'loss' in values]
    for values, record in zip(trained, records(runs.whole), strict=True):
        assert values == {name: record[name] for name in record if name != 'step'}
    assert sum('coco/AP' in values for values in runs.sent) == 3
    assert sum('validation_persons' in values for values in runs.sent) == 3
    assert runs.sent[-1] == 'closed'


def test_a_streamed_model_with_frozen_layers_and_no_validation_is_watched_alike(
    job, make_runner, monkeypatch
):
    job.update(val_cfg=None, val_dataloader=None, val_evaluator=None)
    stream(job)
    job.model.backbone.frozen_stages = 1
    job.train_cfg.max_epochs = 2
    # What a GPU would say; MMEngine's own questions are left out.
    monkeypatch.setattr(torch.cuda, 'max_memory_reserved', lambda: 2941 * 2**20)
    monkeypatch.setattr(status_log_processor, 'is_cuda_available', lambda: True)
    runner = train(job, make_runner, monkeypatch)
    last = lines(runner)[-1]
    assert last.startswith('last 1 of 2 layers | epoch 2/2 | step 3/3 | loss ')
    lr = job.optim_wrapper.optimizer.lr
    assert f' | lr {lr:g} (block 1 {lr / 2:.2g}) | ' in last
    assert ' | VRAM peak 2,941 MiB | ' in last
    assert last.endswith(' | left: phase 0 s, job 0 s')
    assert job.val_dataloader is None
    assert all(r['grad_norm'] > 0 for r in records(runner))
    assert {r['vram_peak_mib'] for r in records(runner)} == {2941}


def test_jobs_by_iteration_keep_the_lines_of_mmengine(job, make_runner, monkeypatch):
    job.train_cfg = dict(by_epoch=False, max_iters=2)
    job.log_processor.by_epoch = False
    job.default_hooks.phase_switch = None
    job.default_hooks.checkpoint.by_epoch = False
    runner = train(job, make_runner, monkeypatch)
    (log,) = Path(runner.log_dir).glob('*.log')
    assert 'Iter(train) [2/2]' in log.read_text(encoding='utf-8')
    assert 'hours_left' not in records(runner, training=False)[0]  # without an epoch


def test_rates_by_depth_are_few():
    class Param:
        requires_grad = True

    groups = [
        dict(group_name=f'layer_{i}_{kind}', lr=0.85 ** (41 - i), params=[Param()])
        for i in range(42)
        for kind in ('decay', 'no_decay')
    ]
    rates = rates_by_depth(groups)
    assert list(rates) == [
        'stem', 'block_0', 'block_10', 'block_20', 'block_29', 'block_39', 'head',
    ]  # fmt: skip
    assert rates['head'] == 1 and rates['block_39'] == 0.85
    assert rates_by_depth([dict(lr=0.1, params=[Param()])]) == {'head': 0.1}


def refuse(*args, **kwargs):
    raise InputError('an interval that planning does not know')


def test_a_job_that_planning_refuses_has_its_line_without_the_time_left(
    job, make_runner, monkeypatch
):
    monkeypatch.setattr(status_hook, 'planned_job', refuse)
    job.train_cfg.max_epochs = 2
    runner = train(job, make_runner, monkeypatch)
    said = lines(runner)
    assert len(said) == 6 and said[0].startswith('epoch 1/2 | step 1/3 | loss ')
    assert all(re.search(r' persons/s \| no GPU \| host [\d.]+ GiB$', s) for s in said)
    assert all('hours_left' not in record for record in records(runner))
    assert all(record['persons_per_second'] > 0 for record in records(runner))
    (log,) = Path(runner.log_dir).glob('*.log')
    text = log.read_text(encoding='utf-8')
    assert text.count('will not tell the time left') == 1
    assert 'an interval that planning does not know' in text


def test_a_bar_without_the_time_left(job, make_runner, monkeypatch):
    shown = []

    class Bar:
        is_due = True
        start = stop = lambda self: None

        def show(self, title, **kwargs):
            shown.append((title, kwargs['note']))

    monkeypatch.setattr(status_hook, 'planned_job', refuse)
    job.train_cfg.max_epochs = 2
    monkeypatch.setattr(status_hook, 'StatusBar', lambda handlers: Bar())
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True, raising=False)
    train(job, make_runner, monkeypatch)
    assert shown[0][0] == 'training 1/2' and shown[0][1].startswith('loss ')
    assert 'left' not in shown[0][1]


def test_with_all_layers_frozen_the_head_trains_alone(job, make_runner):
    job.model.backbone.frozen_stages = 2  # of 2
    clock = status_hook._make_clock(make_runner(job))
    names = []
    for epoch in range(job.train_cfg.max_epochs):
        clock.begin_epoch(epoch)
        names.append(clock.phase.name)
    assert set(names) == {'head alone'}


OPENED = Counter()


@pytest.fixture(scope='module')
def openings():
    """Count how often each file is opened, by its name."""

    def audit(event, args):
        if event == 'open' and isinstance(args[0], str):
            OPENED[Path(args[0]).name] += 1

    sys.addaudithook(audit)  # for good
    return OPENED


@pytest.mark.parametrize('streamed', [False, True])
def test_annotations_are_read_once_and_speed_is_measured_once(
    job, make_runner, monkeypatch, openings, streamed
):
    if streamed:
        stream(job)
        job.model.precision = 'bfloat16'  # on a GPU 'auto' measures as well
    measured = []
    for module, name in ((announce_plan, 'probe_machine'), (precision, '_gemm_tflops')):
        real = getattr(module, name)
        monkeypatch.setattr(
            module,
            name,
            lambda *a, real=real, name=name: measured.append(name) or real(*a),
        )
    counted = {}

    class FirstStep(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            counted.update(counted or openings)

    precision._measure.cache_clear()
    openings.clear()
    make_runner(job, FirstStep()).train()
    assert counted['person_keypoints_train.json'] == 1
    assert counted['person_keypoints_val.json'] == 2  # the data set, and the metric
    assert sorted(measured) == ['_gemm_tflops'] * streamed + ['probe_machine']
    assert read_plan(job.work_dir)['test_persons'] > 0


def test_a_plan_stays_where_a_training_goes_on(job, make_runner, monkeypatch):
    told = []
    monkeypatch.setattr(
        status_hook, 'leave_plan', lambda cfg, place, **n: told.append(n) or 'told'
    )
    job.train_cfg.max_epochs = 1
    runner = make_runner(job)
    runner.train()
    assert told == [dict(train=24, val=len(runner.val_dataloader.dataset))]
    runner.test()
    Path(job.work_dir, 'plan.json').touch()
    job.resume, job.load_from = True, f'{job.work_dir}/epoch_1.pth'
    make_runner(job).train()
    assert len(told) == 1
    Path(job.work_dir, 'plan.json').unlink()
    make_runner(job).train()
    assert len(told) == 2
