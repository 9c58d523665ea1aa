"""Every shipped config builds, and its parts fit together."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import HOOKS, init_default_scope
from mmengine.runner import Runner, get_priority
from mmpose.registry import DATASETS, MODELS

from sapiens_plugin.core.vit.architectures import get_architecture

CONFIGS = sorted((Path(__file__).parents[1] / 'configs').glob('*.py'))
PUBLISHED = {
    'sapiens0.3b_coco_1024x768', 'sapiens0.6b_coco_1024x768',
    'sapiens1b_coco_1024x768', 'sapiens2b_coco_1024x768',
}  # fmt: skip
NAMES = PUBLISHED | {
    'sapiens1b_gtx1650', 'sapiens1b_minimal', 'sapiens1b_a100', 'sapiens2b_gtx1650',
    'sapiens1b_gtx1650_week', 'sapiens0.3b_gtx1650_week', 'sapiens_tiny_demo',
}  # fmt: skip


def test_the_promised_configs_are_there():
    assert {path.stem for path in CONFIGS} == NAMES


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_each_begins_with_the_command_that_runs_it(path):
    first = path.read_text(encoding='utf-8').splitlines()[0]
    assert first == f'# python3 tools/train.py configs/{path.name}'


def test_every_hook_of_ours_is_named_with_its_priority(cfg):
    assert 'custom_hooks' not in cfg
    for hook in cfg.default_hooks.values():
        if hook.type.startswith('sapiens_plugin.'):
            stated = get_priority(hook.priority)
            assert stated == get_priority(HOOKS.get(hook.type).priority), hook.type


@pytest.fixture(params=CONFIGS, ids=lambda path: path.stem)
def cfg(request):
    init_default_scope('mmpose')
    return Config.fromfile(request.param)


def test_sizes_agree(cfg):
    width, height = cfg.codec.input_size
    assert tuple(cfg.model.backbone.img_size) == (height, width)
    assert cfg.model.head.decoder == cfg.codec
    assert [4 * side for side in cfg.codec.heatmap_size] == [width, height]
    arch = get_architecture(cfg.model.backbone.arch)
    assert cfg.model.head.in_channels == arch.embed_dims
    for split in ('train', 'val', 'test'):
        pipeline = {s.type: s for s in cfg[f'{split}_dataloader'].dataset.pipeline}
        assert tuple(pipeline['TopdownAffine'].input_size) == (width, height)
        if split == 'train':
            assert pipeline['GenerateTarget'].encoder == cfg.codec


def test_the_model_has_its_published_size(cfg):
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert len(model.backbone.layers) == model.backbone.arch.num_layers
    if 'tiny' not in Path(cfg.filename).stem:
        head = sum(p.numel() for p in model.head.parameters())
        dims = cfg.model.head.in_channels
        assert head == 16 * 768 * (dims + 768) + 2 * 769 * 768 + 769 * 17


def shrink(cfg, demo, work_dir):
    """Keep every size that has to fit, and make everything else small."""
    cfg.work_dir = str(work_dir)
    cfg.model.backbone.update(
        arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
        frozen_stages=min(1, cfg.model.backbone.get('frozen_stages', -1)),
        init_cfg=None,
    )
    cfg.model.head.update(in_channels=16, deconv_out_channels=(8, 8))
    cfg.model.head.conv_out_channels = (8,) * len(cfg.model.head.conv_out_channels)
    cfg.visualizer.vis_backends = [dict(type='LocalVisBackend')]
    cfg.optim_wrapper.pop('accumulative_counts', None)
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        loader.dataset.update(
            data_root=str(demo.root),
            ann_file='annotations/person_keypoints_val.json',
            data_prefix=dict(img='images/val/'),
            bbox_file=None,
        )
    return cfg


def test_it_runs_one_step_and_one_prediction(cfg, demo, tmp_path):
    run(shrink(cfg, demo, tmp_path))


def test_the_example_in_the_docs_runs(repo, demo, tmp_path):
    init_default_scope('mmpose')
    text = (repo / 'docs' / 'streaming.md').read_text(encoding='utf-8')
    code = re.search(r'```python\n(.*?)```', text, re.DOTALL)[1]
    base = "_base_ = 'sapiens1b_a100.py'"
    assert base in code
    path = tmp_path / 'own.py'
    absolute = (repo / 'configs' / 'sapiens1b_a100.py').as_posix()
    path.write_text(code.replace(base, f'_base_ = {absolute!r}'), encoding='utf-8')
    cfg = Config.fromfile(path)
    assert 'streaming' in cfg.default_hooks and 'phase_switch' in cfg.default_hooks
    run(shrink(cfg, demo, tmp_path))


def run(cfg):
    """Make one training step and one prediction."""
    cfg.experiment_name = Path(cfg.filename).stem
    runner = Runner.from_cfg(cfg)
    runner._train_loop = runner.build_train_loop(cfg.train_cfg)
    runner.optim_wrapper = runner.build_optim_wrapper(cfg.optim_wrapper)
    runner.param_schedulers = runner.build_param_scheduler(cfg.param_scheduler)
    runner.call_hook('before_run')
    runner._init_model_weights()
    runner.model.train()
    batch = next(iter(runner.train_dataloader))
    before = {k: v.clone() for k, v in runner.model.state_dict().items()}
    losses = runner.model.train_step(batch, runner.optim_wrapper)
    weight = cfg.model.head.loss.get('loss_weight', 1)
    assert 0 < losses['loss'].item() < weight
    moved = {k for k, v in runner.model.state_dict().items() if (v != before[k]).any()}
    held = runner.model.backbone.frozen_stages >= 0
    assert ('backbone.layers.0.attn.qkv.weight' in moved) != held
    assert {'backbone.layers.1.attn.qkv.weight', 'head.final_layer.weight'} <= moved

    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    runner.model.eval()
    with torch.no_grad():
        (sample,) = runner.model.test_step(pseudo_collate([dataset[0]]))
    assert sample.pred_instances.keypoints.shape == (1, 17, 2)


def test_every_job_is_seeded_and_keeps_its_best(cfg):
    if 'auto_scale_lr' in cfg:
        scaled = cfg.auto_scale_lr.base_batch_size
        assert scaled == cfg.train_dataloader.batch_size
    assert cfg.randomness.seed is not None
    assert cfg.default_hooks.checkpoint.save_best == 'coco/AP'
    assert cfg.default_hooks.checkpoint.save_last
    types = [backend.type for backend in cfg.visualizer.vis_backends]
    assert 'TensorboardVisBackend' in types


def test_the_4_gb_job_has_its_stated_settings(repo):
    cfg = Config.fromfile(repo / 'configs' / 'sapiens1b_gtx1650.py')
    assert cfg.codec.input_size == (288, 384) and cfg.codec.heatmap_size == (72, 96)
    assert cfg.model.micro_batch == 2
    assert cfg.train_dataloader.batch_size == 32
    assert cfg.model.vram_budget <= 3400
    assert cfg.train_dataloader.num_workers == 2
    assert cfg.train_dataloader.persistent_workers
    assert cfg.train_cfg.max_epochs == 110
    assert cfg.default_hooks.phase_switch == dict(
        type='sapiens_plugin.PhaseSwitchHook', priority='VERY_HIGH', warmup_epochs=10
    )
    assert cfg.optim_wrapper.optimizer.lr == 5e-4
    assert cfg.optim_wrapper.clip_grad.max_norm == 1.0
    assert cfg.default_hooks.checkpoint.interval == 5


@pytest.mark.parametrize(
    'name, micro_batch, img_size',
    [
        ('sapiens1b_gtx1650', 2, (384, 288)),
        ('sapiens1b_minimal', 1, (320, 240)),
        ('sapiens2b_gtx1650', 2, (384, 288)),
        ('sapiens1b_gtx1650_week', 2, (256, 192)),
        ('sapiens0.3b_gtx1650_week', 2, (256, 192)),
    ],
)
def test_jobs_for_4_gb_stream(repo, name, micro_batch, img_size):
    cfg = Config.fromfile(repo / 'configs' / f'{name}.py')
    assert cfg.model.type == 'sapiens_plugin.StreamedTopdownPoseEstimator'
    assert cfg.model.mode == 'compact'
    assert cfg.model.micro_batch == micro_batch
    assert tuple(cfg.model.backbone.img_size) == img_size
    assert 'with_cp' not in cfg.model.backbone
    assert cfg.train_dataloader.batch_size == 32
    assert cfg.optim_wrapper.type == 'sapiens_plugin.StreamedOptimWrapper'
    assert cfg.optim_wrapper.optimizer.type == 'sapiens_plugin.HostAdamW'
    assert cfg.optim_wrapper.paramwise_cfg.layer_decay_rate == 0.85
    assert cfg.default_hooks.streaming.type == 'sapiens_plugin.StreamingHook'
    assert cfg.default_hooks.phase_switch.type == 'sapiens_plugin.PhaseSwitchHook'


@pytest.mark.parametrize('name', sorted(NAMES - PUBLISHED))
def test_small_card_jobs_validate_on_true_boxes_and_test_on_detections(repo, name):
    cfg = Config.fromfile(repo / 'configs' / f'{name}.py')
    assert 'bbox_file' not in cfg.val_dataloader.dataset
    flips = cfg.default_hooks.flip_test
    assert (flips.val, flips.test) == (False, True)
    assert bool(cfg.test_dataloader.dataset.bbox_file) == ('tiny' not in name)


def test_coco_root_moves_the_data(repo, monkeypatch):
    monkeypatch.setenv('COCO_ROOT', '/data sets/unset/coco')
    cfg = Config.fromfile(repo / 'configs' / 'sapiens1b_gtx1650.py')
    assert cfg.train_dataloader.dataset.data_root == '/data sets/unset/coco'
