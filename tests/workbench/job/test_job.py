from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from sapiens_plugin.core.streaming.memory import host_memory
from sapiens_plugin.errors import InputError
from sapiens_plugin.workbench.job.job import Checkpoints
from sapiens_plugin.workbench.job.reader import read_job
from sapiens_plugin.workbench.planning.footprint import host_account

CONFIGS = sorted((Path(__file__).parents[3] / 'configs').glob('*.py'))


def load(name, **changes):
    path = next(path for path in CONFIGS if path.stem == name)
    cfg = Config.fromfile(path, import_custom_modules=False)
    cfg.merge_from_dict(changes)
    return cfg.to_dict(), path


def read(name, **changes):
    return read_job(*load(name, **changes))


@pytest.mark.parametrize(
    'name',
    [
        'sapiens_tiny_demo',
        'sapiens0.3b_coco_1024x768',
        'sapiens1b_gtx1650_week',  # the first 24 layers never train
        'sapiens2b_gtx1650',
    ],
)
def test_a_job_has_as_many_parameters_as_its_model(name):
    from mmengine.registry import init_default_scope

    import sapiens_plugin.registry  # noqa: F401

    init_default_scope('mmpose')
    from mmpose.registry import MODELS

    cfg, _ = load(name)
    with torch.device('meta'):
        model = MODELS.build(cfg['model'])
    job = read(name)
    assert job.num_params == sum(p.numel() for p in model.parameters())
    assert job.num_trained() == sum(
        p.numel() for p in model.parameters() if p.requires_grad
    )


def test_the_job_of_4_gb():
    job = read('sapiens1b_gtx1650')
    assert job.batch == 32 and job.precision == 'auto'
    assert vars(job.streaming) == dict(
        vram_budget=3000,
        boundary_dtype='float16',
        gradient_dtype='bfloat16',
        moment_dtype='int8',
    )
    streamed = host_memory(**host_account(job))
    assert streamed.total / 1e9 == pytest.approx(9.5, abs=0.05)  # the docs
    assert job.backbone_weights.endswith('sapiens_1b_epoch_173_torchscript.pt2')
    assert job.whole_weights is None
    assert job.work_dir == Path('work_dirs', 'sapiens1b_gtx1650')
    # 4 bytes of weights and 2.06 of moments a parameter, in four; and the best one.
    expected = (4 * (4 + 2.0625) + 4) * job.num_params
    assert sum(job.disk_use().values()) == pytest.approx(expected, rel=1e-3)
    train, val, test = job.sources
    assert (
        train.annotations == train.root / 'annotations/person_keypoints_train2017.json'
    )
    assert train.images == train.root / 'images' / 'train2017'
    assert (train.detections, val.detections) == (None, None)
    assert test.detections.name == 'COCO_val2017_detections_AP_H_70_person.json'
    # A picture of three bytes a pixel, and 17 heatmaps of a quarter of each side.
    sample = 3 * 384 * 288 + 4 * 17 * 96 * 72
    assert job.shared_bytes('train') == 5 * 32 * sample


def test_modes_and_single_types():
    name = 'sapiens1b_gtx1650'
    assert read(name, **{'model.mode': 'exact'}).streaming.gradient_dtype == 'float32'
    changed = read(name, **{'model.moment_dtype': 'bfloat16'}).streaming
    assert (changed.moment_dtype, changed.gradient_dtype) == ('bfloat16', 'bfloat16')
    with pytest.raises(InputError, match='exact'):
        read(name, **{'model.mode': 'small'})


def test_precision_is_what_the_job_computes_in():
    assert read('sapiens1b_a100').precision == 'bfloat16'
    assert read('sapiens_tiny_demo').precision == 'float32'
    amp = {'optim_wrapper.type': 'AmpOptimWrapper'}
    assert read('sapiens_tiny_demo', **amp).precision == 'float16'
    asked = {'model.precision': 'bfloat16'}
    assert read('sapiens1b_gtx1650', **asked).precision == 'bfloat16'


@pytest.mark.parametrize(
    'plan, epochs, periodic',
    [
        (Checkpoints(interval=5, kept=2, by_time=0, best=False, last=True), 110, 3),
        (Checkpoints(interval=5, kept=-1, by_time=0, best=False, last=True), 12, 3),
        (Checkpoints(interval=5, kept=-1, by_time=0, best=False, last=False), 12, 2),
        (Checkpoints(interval=5, kept=-1, by_time=0, best=False, last=True), 10, 2),
        (Checkpoints(interval=5, kept=3, by_time=0, best=False, last=True), 10, 2),
        (Checkpoints(interval=1, kept=1, by_time=0, best=False, last=True), 9, 2),
        (Checkpoints(interval=5, kept=1, by_time=2, best=False, last=True), 110, 4),
        (Checkpoints(interval=0, kept=1, by_time=2, best=False, last=False), 9, 3),
        (Checkpoints(interval=0, kept=-1, by_time=0, best=False, last=True), 9, 1),
        (Checkpoints(interval=0, kept=-1, by_time=0, best=False, last=False), 9, 0),
    ],
)
def test_checkpoints_that_lie_there_at_once(plan, epochs, periodic):
    job = read('sapiens_tiny_demo')
    job = job.changed(checkpoints=plan, max_epochs=epochs)
    disk = sum(job.disk_use().values())
    assert disk == periodic * 12 * job.num_params
    best = job.changed(checkpoints=replace(plan, best=True))
    assert sum(best.disk_use().values()) - disk >= 4 * job.num_params


def test_data_sets_inside_others_and_folders_are_found(tmp_path):
    cfg, path = load('sapiens_tiny_demo')
    inner = cfg['train_dataloader']['dataset']
    other = {**inner, 'data_root': 'other'}
    cfg['train_dataloader']['dataset'] = dict(
        type='CombinedDataset', datasets=[inner, dict(type='Repeat', dataset=other)]
    )
    cfg['val_dataloader'] = None
    cfg['visualizer']['vis_backends'][0]['save_dir'] = 'logs'
    cfg['default_hooks']['checkpoint']['out_dir'] = 'checkpoints'
    job = read_job(cfg, path)
    assert [source.split for source in job.sources] == ['train', 'train', 'test']
    assert job.sources[1].root == Path('other')
    assert list(job.other_dirs) == [Path('logs'), Path('checkpoints')]


@pytest.mark.parametrize(
    'spoil, message',
    [
        (lambda cfg: cfg.pop('model'), 'not a job for a Sapiens'),
        (lambda cfg: cfg.pop('train_dataloader'), 'not a job for a Sapiens'),
        (lambda cfg: cfg['model']['backbone'].update(type='ViT'), 'not a job'),
        (lambda cfg: cfg['model']['backbone'].pop('arch'), 'needs an arch'),
        (lambda cfg: cfg['model']['backbone'].update(arch='sapiens_9b'), 'sapiens_9b'),
        (lambda cfg: cfg['model']['backbone'].update(img_size=(100, 96)), '16 px'),
    ],
)
def test_what_is_no_job_is_refused(spoil, message):
    cfg, path = load('sapiens_tiny_demo')
    spoil(cfg)
    with pytest.raises(InputError, match=message):
        read_job(cfg, path)


def test_a_budget_is_a_number():
    with pytest.raises(InputError, match=r"model.vram_budget='3GB'"):
        read('sapiens1b_gtx1650', **{'model.vram_budget': '3GB'})


def test_a_job_with_no_more_epochs_than_its_warm_up_is_refused():
    with pytest.raises(InputError, match='begins at epoch 10 and ends at epoch 5'):
        read('sapiens1b_gtx1650', **{'train_cfg.max_epochs': 5})
