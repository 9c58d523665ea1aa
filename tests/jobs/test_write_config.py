"""Planned jobs written as configs."""

import pytest
from mmengine.config import Config

from sapiens_plugin.core.vit.architectures import ARCHITECTURES
from sapiens_plugin.errors import InputError
from sapiens_plugin.jobs.read_config import load_config, planned_job, stage_measurer
from sapiens_plugin.jobs.write_config import write_config
from sapiens_plugin.workbench.job.job import Persons
from sapiens_plugin.workbench.planning.cards import get_card
from sapiens_plugin.workbench.planning.plan import make_plan

PERSONS = Persons(train=149_813, val=6_352, test=104_000)


@pytest.fixture
def write(repo, tmp_path):
    def write(name: str, **changes) -> tuple[Config, object]:
        """Write a changed job; return the config read back, and its plan."""
        cfg = load_config(repo / 'configs' / f'{name}.py')
        old = planned_job(cfg, PERSONS)
        plan = make_plan(
            old.changed(**changes), get_card('gtx1650'), stage_measurer(cfg)
        )
        path = tmp_path / 'sub' / 'found.py'
        path.parent.mkdir(exist_ok=True)
        write_config(path, cfg, old, plan)
        return load_config(path), plan

    return write


def test_it_plans_to_the_same_numbers(write):
    cfg, plan = write(
        'sapiens1b_gtx1650',
        arch=ARCHITECTURES['sapiens_0.3b'],
        img_size=(256, 192),
        frozen_stages=8,
        micro_batch=1,
        warmup_epochs=1,
        max_epochs=5,
    )
    job = planned_job(cfg, PERSONS)
    assert job.checkpoints.interval == 1
    names = ('config', 'work_dir', 'backbone_weights', 'checkpoints')
    same = job.changed(**{name: getattr(plan.job, name) for name in names})
    assert same == plan.job
    again = make_plan(same, plan.card, stage_measurer(cfg))
    assert again.total_hours == plan.total_hours
    assert again.vram_peak == plan.vram_peak

    # As tests/test_configs.py asks of every shipped one.
    assert cfg.model.head.in_channels == 1024
    assert cfg.model.head.decoder == cfg.codec
    assert cfg.codec.input_size == (192, 256) and cfg.codec.heatmap_size == (48, 64)
    assert cfg.codec.sigma == 2
    for split in ('train', 'val', 'test'):
        pipeline = {s.type: s for s in cfg[f'{split}_dataloader'].dataset.pipeline}
        assert pipeline['TopdownAffine'].input_size == (192, 256)
        assert pipeline['TopdownAffine'].use_udp
        if split == 'train':
            assert pipeline['GenerateTarget'].encoder == cfg.codec
    weights = cfg.model.backbone.init_cfg.checkpoint
    assert weights.endswith(
        'data/pretrained/sapiens_0.3b/sapiens_0.3b_epoch_1600_torchscript.pt2'
    )
    assert [s.get('begin') for s in cfg.param_scheduler] == [0, 1, 1]
    assert cfg.param_scheduler[-1].end == 5
    assert cfg.default_hooks.phase_switch.warmup_epochs == 1
    assert cfg.default_hooks.streaming.type == 'sapiens_plugin.StreamingHook'


def test_accumulation_and_milestones(write):
    cfg, _ = write('sapiens1b_coco_1024x768', max_epochs=21, img_size=(384, 288),
                      batch=1, accumulation=8)  # fmt: skip
    job = planned_job(cfg, PERSONS)
    assert (job.batch, job.accumulation, job.max_epochs) == (1, 8, 21)
    assert cfg.param_scheduler[-1].milestones == [17, 20]
    assert cfg.optim_wrapper.optimizer.lr == 5e-4  # the base's


def test_batches_go_with_pipelines(write):
    cfg, _ = write('sapiens1b_a100', img_size=(384, 288), batch=1, micro_batch=1,
                   accumulation=32)  # fmt: skip
    assert cfg.train_dataloader.batch_size == 1
    assert cfg.train_dataloader.num_workers == 8
    assert cfg.auto_scale_lr.base_batch_size == 1
    names = [step.type for step in cfg.train_dataloader.dataset.pipeline]
    assert names[0] == 'sapiens_plugin.LoadImage'


def test_nothing_is_overwritten(write, tmp_path):
    write('sapiens_tiny_demo', max_epochs=5)
    with pytest.raises(InputError, match='is there already'):
        write('sapiens_tiny_demo', max_epochs=5)
    assert [path.name for path in (tmp_path / 'sub').iterdir()] == ['found.py']
    cfg = load_config(tmp_path / 'sub' / 'found.py')
    with pytest.raises(InputError, match=r'ends with .py'):
        write_config(tmp_path / 'found.txt', cfg, None, None)
