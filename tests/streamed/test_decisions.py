"""What a streamed run has decided by the day's weather stays decided."""

import copy

import pytest
import torch

from sapiens_plugin import recipe
from sapiens_plugin.core.streaming.memory import MIB, Layout, training_memory
from sapiens_plugin.core.streaming.precision import Precision
from sapiens_plugin.engine.utils import same_bits
from sapiens_plugin.errors import InputError
from sapiens_plugin.streamed import pose_estimator
from sapiens_plugin.streamed.pose_estimator import StreamedTopdownPoseEstimator


def rooms(model):
    """Find memory in MiB with which boundaries lie every 4, 2 or 1 of the blocks."""
    job = model.memory_step(24, (128, 96), compute_dtype=torch.float32)
    four, two, one = (
        training_memory(job, Layout(spacing=n, slots=min(2 * n, 4), **on_host)).total
        for n, on_host in ((4, {}), (2, {}), (1, dict(boundaries_on_host=True)))
    )
    return dict(plenty=119, some=(four + two) / 2 / MIB, little=(two + one) / 2 / MIB)


class Weather:
    """What is free and what is fast, of a device that the CPU plays."""

    def __init__(self, monkeypatch, model):
        self.rooms = rooms(model)
        self.free, self.fastest, self.works = 'plenty', 'float32', True
        self.full = False
        patch = monkeypatch.setattr
        patch(StreamedTopdownPoseEstimator, '_computes_in_place', False)
        patch(pose_estimator, '_free_memory', lambda _: self.rooms[self.free])
        patch(pose_estimator, 'choose_precision', self._choose)
        accumulate = StreamedTopdownPoseEstimator._accumulate

        def accumulate_if_not_full(model, *args):
            if self.full and model.micro_batch > 2:
                raise torch.OutOfMemoryError('CUDA out of memory.')
            return accumulate(model, *args)

        patch(StreamedTopdownPoseEstimator, '_accumulate', accumulate_if_not_full)

    def _choose(self, device, requested):
        if requested == 'bfloat16' and not self.works:
            raise InputError('bfloat16 cannot be used on this device.')
        name = self.fastest if requested == 'auto' else requested
        return Precision(getattr(torch, name), False, f'{name}.', {})


@pytest.fixture
def weather(monkeypatch, cfg, make_runner):
    return Weather(monkeypatch, make_runner(cfg).model)


@pytest.fixture
def cfg(demo_config):
    """Two epochs of the head alone and two of everything, of one step each."""
    cfg = demo_config
    cfg.model.backbone.arch.num_layers = 4
    recipe.streamed(micro_batch=2)(cfg)
    cfg.train_dataloader.batch_size = 24
    cfg.param_scheduler = []
    cfg.default_hooks.phase_switch.warmup_epochs = 2
    cfg.default_hooks.checkpoint.interval = 1
    return cfg


def assert_same_state(one, other):
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name
    first, second = (r.optim_wrapper.state_dict()['state'] for r in (one, other))
    assert first.keys() == second.keys()
    for key, state in first.items():
        for name, value in state.items():
            assert torch.equal(value, second[key][name]), (key, name)


@pytest.fixture
def warnings(monkeypatch):
    said = []
    monkeypatch.setattr(same_bits, 'print_log', lambda text, **_: said.append(text))
    return said


@pytest.fixture
def run(make_runner):
    def run(cfg, epochs=4, *, work_dir='', **changes):
        cfg = copy.deepcopy(cfg)
        cfg.train_cfg.max_epochs = epochs
        cfg.work_dir += work_dir
        cfg.update(changes)
        runner = make_runner(cfg)
        runner.train()
        return runner

    return run


WEATHERS = dict(
    more_room=(dict(free='some'), dict(free='plenty')),
    another_type_is_faster=(dict(fastest='bfloat16'), dict(fastest='float32')),
    no_longer_full=(dict(full=True), dict(full=False)),
)


@pytest.mark.parametrize('before, after', WEATHERS.values(), ids=WEATHERS)
def test_a_resumed_run_decides_as_before(cfg, run, weather, warnings, before, after):
    if before.get('full'):
        cfg.model.update(on_oom='retry', micro_batch=4)
    vars(weather).update(before)
    whole = run(cfg, work_dir='_whole')
    run(cfg, epochs=3)
    vars(weather).update(after)
    resumed = run(cfg, resume=True)
    assert_same_state(resumed, whole)
    assert resumed.model.decisions == whole.model.decisions
    assert warnings == []
    # The weather would have changed them.
    other = run(cfg, work_dir='_other')
    assert other.model.decisions != whole.model.decisions


def test_a_checkpoint_without_notes_goes_on(cfg, run, weather, warnings):
    part = run(cfg, epochs=3)
    path = f'{part.work_dir}/epoch_3.pth'
    checkpoint = torch.load(path, weights_only=False)
    assert checkpoint['meta'].pop('streaming')['spacings'] == {0: 4, 5: 1}
    assert checkpoint['message_hub']['runtime_info'].pop('surroundings')
    torch.save(checkpoint, path)
    weather.free = 'some'
    assert run(cfg, resume=True).model.decisions['spacings'] == {0: 2}
    assert warnings == []


def test_what_no_longer_fits_is_decided_anew_and_told(cfg, run, weather, warnings):
    run(cfg, epochs=3)
    weather.free = 'little'
    resumed = run(cfg, resume=True)
    assert resumed.model.decisions['spacings'][0] == 1
    (warning,) = warnings
    assert 'kept every 4 blocks so far' in warning
    assert 'MiB of GPU memory that can be had' in warning and 'kept every 1.' in warning
    assert 'From here on, numbers can differ' in warning


def test_a_type_that_no_longer_works_is_told(cfg, run, weather, warnings):
    weather.fastest = 'bfloat16'
    run(cfg, epochs=3)
    weather.fastest, weather.works = 'float32', False
    assert run(cfg, resume=True).model.decisions['precision'] == 'float32'
    (warning,) = warnings
    assert 'computed in bfloat16 so far. bfloat16 cannot be used' in warning


@pytest.mark.parametrize(
    'changed, decided, told',
    [
        (dict(micro_batch=1), dict(micro_batch=1), 'micro_batch is 1 and was 2'),
        (
            dict(precision='float32'),
            dict(precision='float32'),
            'precision is float32 and was auto',
        ),
        (
            dict(vram_budget=119),
            dict(spacings={0: 4}),
            'vram_budget is 119 and was None',
        ),
        (
            dict(mode='exact'),
            dict(spacings={}),
            'boundary_dtype is float32 and was float16, gradient_dtype is float32 and '
            'was bfloat16, moment_dtype is float32 and was int8',
        ),
    ],
    ids=['micro_batch', 'precision', 'vram_budget', 'mode'],
)
def test_a_change_in_the_config_is_obeyed_and_told(
    cfg, run, weather, warnings, changed, decided, told
):
    weather.free, weather.fastest = 'some', 'bfloat16'
    run(cfg, epochs=3)
    weather.free = 'plenty'
    cfg.model.update(changed)
    resumed = run(cfg, resume=True)
    assert decided.items() <= resumed.model.decisions.items()
    (warning,) = warnings
    assert f'Since the checkpoint was written: {told}.' in warning


def test_where_boundaries_are_not_rounded_they_may_be_anywhere(
    cfg, run, weather, warnings
):
    cfg.model.mode = 'exact'
    whole = run(cfg, work_dir='_whole')
    run(cfg, epochs=3)
    cfg.model.vram_budget = 98
    assert_same_state(run(cfg, resume=True), whole)
    assert warnings == []


def test_on_another_device_all_is_decided_anew(
    cfg, run, weather, warnings, monkeypatch
):
    weather.free, weather.fastest = 'some', 'bfloat16'
    run(cfg, epochs=3)
    weather.free, weather.fastest = 'plenty', 'float32'
    for module in (same_bits, pose_estimator):
        monkeypatch.setattr(module, 'device_name', lambda device: 'Tesla T4')
    decisions = run(cfg, resume=True).model.decisions
    assert (decisions['precision'], decisions['spacings']) == ('float32', {0: 4})
    (warning,) = warnings
    assert 'the device is Tesla T4 and was cpu' in warning


def test_a_test_of_a_checkpoint_goes_its_own_way(
    cfg, run, weather, warnings, make_runner
):
    weather.fastest = 'bfloat16'
    part = run(cfg, epochs=3)
    weather.fastest = 'float32'
    cfg.resume, cfg.load_from = True, f'{part.work_dir}/epoch_3.pth'
    cfg.model.micro_batch = 3
    runner = make_runner(cfg)
    runner.test()
    assert runner.model.decisions['precision'] == 'float32'
    assert warnings == []


def test_a_layout_made_again_within_a_run_has_the_same_bits(weather, cfg, make_runner):
    """After a validation with more images, and at a smaller batch at an epoch's end."""
    model = make_runner(cfg).model
    model.vram_budget = None
    images = torch.zeros(24, 3, 128, 96)
    weather.free = 'some'
    assert model._chain_for(images, training=True)._placement.spacing == 2
    weather.free = 'plenty'
    model._chain_for(torch.zeros(25, 3, 128, 96), training=False)
    assert model._chain_for(images[:8], training=True)._placement.spacing == 2
    model._close_chain()


def test_a_budget_too_small_is_refused_also_where_a_run_may_go_on(
    cfg, run, weather, monkeypatch
):
    monkeypatch.setattr(StreamedTopdownPoseEstimator, 'train_step', pytest.fail)
    weather.rooms['plenty'] = 86
    with pytest.raises(InputError, match='smallest that works'):
        run(cfg, resume=True)  # there is nothing to go on from
