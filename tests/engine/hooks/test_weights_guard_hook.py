from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook

from sapiens_plugin import recipe
from sapiens_plugin.engine.hooks.weights_guard_hook import WeightsGuardHook, _shows
from sapiens_plugin.errors import InputError


@pytest.fixture
def job(demo_config):
    """Nine steps, three of them with the head alone, and nothing else."""
    cfg = demo_config
    for name in ('val_dataloader', 'val_cfg', 'val_evaluator'):
        cfg[name] = None
    for name in ('status', 'pictures', 'report'):
        del cfg.default_hooks[name]
    cfg.default_hooks.checkpoint = dict(
        type='sapiens_plugin.CheckpointHook', interval=1, max_keep_ckpts=9
    )
    return guarded(cfg, steps=2)


def guarded(cfg, **settings):
    cfg.default_hooks.step_guard = None
    kind = 'sapiens_plugin.WeightsGuardHook'
    cfg.default_hooks.weights_guard = dict(type=kind, **settings)
    return cfg


def said(runner) -> list[str]:
    (log,) = Path(runner.work_dir).rglob(f'{runner.timestamp}.log')
    return [
        line.rpartition(' - ')[2]
        for line in log.read_text(encoding='utf-8').splitlines()
        if 'are in the model' in line or 'have moved' in line
    ]


def streamed(cfg):
    recipe.streamed(micro_batch=4)(cfg)
    return cfg


@pytest.mark.parametrize('streams', [False, True], ids=['stock', 'streamed'])
@pytest.mark.parametrize('steps', [1, 200])
def test_a_run_as_it_should_be_is_looked_at_once_a_phase(
    job, make_runner, streams, steps
):
    cfg = guarded(streamed(job) if streams else job, steps=steps)
    runner = make_runner(cfg)
    runner.train()
    head = len(list(runner.model.head.parameters()))
    every = len(list(runner.model.parameters()))
    first, second = (1, 1) if steps == 1 else (3, 6)
    assert said(runner) == [
        f'After {first} optimizer steps {head} tensors of parameters have moved, and '
        f'{every - head} have not, as they should.',
        f'After {second} optimizer steps {every} tensors of parameters have moved, and '
        '0 have not, as they should.',
    ]


class At(Hook):
    """Does something to the run at one of its points."""

    def __init__(self, point, do):
        setattr(self, point, lambda runner, *args, **kwargs: do(runner))


def detach_ln1(runner):
    ln1 = runner.model.backbone.ln1
    ln1.register_forward_pre_hook(lambda module, x: x[0].detach())


def lose_a_group(runner):
    optimizer = runner.optim_wrapper.optimizer
    bias = runner.model.head.final_layer.bias
    for group in optimizer.param_groups:
        group['params'] = [p for p in group['params'] if p is not bias]


def write_to_patches(runner):
    if runner.epoch == 0 and runner.iter == 1:
        with torch.no_grad():
            runner.model.backbone.patch_embed.projection.weight.mul_(1.001)


def thaw(runner):
    runner.model.backbone.set_frozen(False)


@pytest.mark.parametrize('streams', [False, True], ids=['stock', 'streamed'])
@pytest.mark.parametrize(
    'point, do, complaint',
    [
        (
            'before_train',
            lose_a_group,
            r'1 of \d+ parameters that train have not moved in 2 optimizer steps: '
            r'head\.final_layer\.bias\.',
        ),
        (
            'before_train_iter',
            write_to_patches,
            r'1 of \d+ parameters that are frozen have moved in 2 optimizer steps: '
            r'backbone\.patch_embed\.projection\.weight',
        ),
        (
            'before_train_iter',
            thaw,
            r'\d\d of \d\d parameters that are frozen have moved in 2 optimizer .*, …',
        ),
    ],
    ids=['not in the optimizer', 'written to', 'thawed'],
)
def test_what_should_not_be_is_named(job, make_runner, streams, point, do, complaint):
    runner = make_runner(streamed(job) if streams else job, At(point, do))
    with pytest.raises(InputError, match=complaint):
        runner.train()
    assert runner.iter == 1


def test_a_detached_part_is_noticed_in_the_phase_that_trains_it(job, make_runner):
    runner = make_runner(job, At('before_train', detach_ln1))
    with pytest.raises(
        InputError,
        match=r'(\d+) of \d+ parameters .* moved in 2 .*: backbone.pos_embed',
    ):
        runner.train()
    assert runner.iter == 4


@pytest.mark.parametrize('when', ['at its end', 'of the run'])
def test_a_short_phase_is_looked_at_at_its_end(job, make_runner, when):
    cfg = guarded(job, steps=100)
    if when == 'of the run':
        cfg.default_hooks.phase_switch.warmup_epochs = 99
    runner = make_runner(cfg, At('before_train_iter', write_to_patches))
    with pytest.raises(InputError, match=r'frozen have moved in [39] optimizer steps'):
        runner.train()


def test_skipped_steps_do_not_count(job, make_runner):
    class Poison(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter in (0, 1, 4):
                for sample in data_batch['data_samples']:
                    sample.gt_fields.heatmaps.fill_(float('nan'))

    job.default_hooks.step_guard = dict(type='sapiens_plugin.StepGuardHook')
    runner = make_runner(job, Poison())
    runner.train()
    assert [line[:23] for line in said(runner)] == [
        'After 1 optimizer steps',  # the first phase had no more
        'After 2 optimizer steps',
    ]


def test_nothing_moves_without_a_learning_rate_and_nobody_is_told(job, make_runner):
    job.optim_wrapper.optimizer.lr = 0.0
    runner = make_runner(job)
    runner.train()
    assert 'After 2 optimizer steps 0 tensors of parameters' in said(runner)[0]


def test_steps_too_small_for_float32_are_no_fault():
    ones, some = torch.ones(9), torch.tensor([1.0, 0.0])
    assert not _shows(1e-6, ones) and _shows(1e-5, ones)
    assert _shows(1e-6, some) and not _shows(0.0, some)
    assert not _shows(1e-3, ones.bfloat16())


@pytest.fixture
def archive(job, make_runner, tmp_path):
    """Weights for the backbone of the job, made for another input size."""
    from sapiens_plugin.core.vit.model import SapiensViT

    torch.manual_seed(7)
    vit = SapiensViT(job.model.backbone.arch, img_size=(128, 128))
    vit.init_weights()
    path = tmp_path / 'pretrained.pth'
    torch.save(vit.state_dict(), path)
    return path


def reinitialise(runner):
    torch.nn.init.normal_(runner.model.backbone.layers[1].ffn.layers[1].weight)


@pytest.mark.parametrize(
    'change, name',
    [
        (reinitialise, r'layers\.1\.ffn\.layers\.1\.weight'),
        (lambda runner: runner.model.backbone.pos_embed.data.zero_(), 'pos_embed'),
    ],
    ids=['a weight', 'positions'],
)
def test_announced_weights_are_in_the_backbone(job, make_runner, archive, change, name):
    job.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(archive))
    job.train_cfg.max_epochs = 1
    job.param_scheduler = []
    runner = make_runner(job)
    runner.train()
    assert said(runner)[0] == f'29 tensors of {archive} are in the model.'
    runner = make_runner(job)
    runner.register_hook(At('before_train', change), 'VERY_HIGH')
    with pytest.raises(
        InputError,
        match=rf'1 of 29 tensors of .* model\.backbone\.init_cfg announces.*: {name}\.',
    ):
        runner.train()


def test_a_resumed_run_has_weights_of_its_own(job, make_runner, archive):
    job.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(archive))
    make_runner(job).train()
    job.resume, job.train_cfg.max_epochs = True, 4
    runner = make_runner(job)
    runner.train()
    assert [line[:7] for line in said(runner)] == ['After 2']


def test_with_nothing_to_resume_from_the_announcement_holds(job, make_runner, archive):
    job.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(archive))
    job.resume = True
    runner = make_runner(job)
    runner.register_hook(At('before_train', reinitialise), 'VERY_HIGH')
    with pytest.raises(InputError, match='1 of 29 tensors'):
        runner.train()


def test_weights_to_start_from_are_in_the_model(job, make_runner, archive):
    make_runner(job).train()
    # Overrules the backbone's.
    job.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(archive))
    job.load_from = f'{job.work_dir}/epoch_3.pth'
    job.work_dir += '_2'  # or it may write into the log of the same second
    runner = make_runner(job)
    runner.train()
    assert said(runner)[0].endswith('epoch_3.pth are in the model.')
    runner = make_runner(job)
    runner.register_hook(At('before_train', reinitialise), 'VERY_HIGH')
    with pytest.raises(InputError, match=r'1 of \d+ .* load_from .*backbone\.layers'):
        runner.train()
    # Nothing was loaded at all.
    runner = make_runner(job)
    runner.load_or_resume = lambda: None
    with pytest.raises(InputError, match=r'\d\d of \d\d tensors of .* load_from'):
        runner.train()


def test_names_that_the_model_does_not_have_are_not_loaded(job, make_runner, tmp_path):
    job.load_from = str(tmp_path / 'other.pth')
    torch.save({'encoder.weight': torch.ones(3)}, job.load_from)
    job.default_hooks.checkpoint_guard = None
    with pytest.raises(InputError, match=r'1 of 1 tensors .*: encoder\.weight\.'):
        make_runner(job).train()


def test_a_number_of_steps_is_needed():
    with pytest.raises(InputError, match='steps=0'):
        WeightsGuardHook(steps=0)
