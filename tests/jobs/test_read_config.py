"""Configs read into plain numbers."""

import json

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS

from sapiens_plugin.core.coco.layout import TRAIN, VAL
from sapiens_plugin.core.streaming.modes import Streaming
from sapiens_plugin.errors import InputError
from sapiens_plugin.jobs.read_config import (
    count_persons,
    epoch_length,
    load_config,
    persons_in_tests,
    planned_job,
    stage_measurer,
)
from sapiens_plugin.workbench.job.job import Checkpoints, Persons
from sapiens_plugin.workbench.planning.cards import get_card
from sapiens_plugin.workbench.planning.footprint import with_all_params
from sapiens_plugin.workbench.planning.plan import make_plan

SOME = Persons(train=1, val=1, test=1)


def config(repo, name: str, **options) -> Config:
    return load_config(repo / 'configs' / f'{name}.py', options)


def test_home_is_expanded(tmp_path, monkeypatch):
    for name in ('HOME', 'USERPROFILE'):  # the latter on Windows
        monkeypatch.setenv(name, str(tmp_path))
    (tmp_path / 'config.py').write_text("roots = ['~/data']\n", encoding='utf-8')
    cfg = load_config(tmp_path / 'config.py', {'work_dir': '~/run'})
    assert cfg.roots == [f'{tmp_path}/data'] and cfg.work_dir == f'{tmp_path}/run'


def test_the_4_gb_job(repo):
    job = planned_job(config(repo, 'sapiens1b_gtx1650'), SOME)
    assert job.name == 'sapiens1b_gtx1650'
    assert (job.arch.embed_dims, job.arch.num_layers) == (1536, 40)
    assert (job.img_size, job.patches) == ((384, 288), 432)
    assert (job.batch, job.micro_batch, job.accumulation) == (32, 2, 1)
    assert job.streaming == Streaming(
        boundary_dtype='float16',
        gradient_dtype='bfloat16',
        moment_dtype='int8',
        vram_budget=3000,
    )
    assert (job.warmup_epochs, job.max_epochs, job.val_interval) == (10, 110, 1)
    assert (job.val_batch, job.test_batch, job.workers) == (8, 8, 2)
    assert (job.val_flip, job.test_flip) == (False, True)
    assert (job.frozen_stages, job.precision) == (-1, 'auto')
    assert job.checkpoints == Checkpoints(
        interval=5, kept=1, by_time=2, best=True, last=True
    )
    assert job.head.deconv_channels == job.head.conv_channels == (768, 768)
    assert (job.head.deconv_kernels, job.head.conv_kernels) == ((4, 4), (1, 1))


def test_other_jobs(repo):
    job = planned_job(config(repo, 'sapiens1b_coco_1024x768'), SOME)
    assert (job.batch, job.accumulation, job.micro_batch) == (1, 16, 1)
    assert (job.warmup_epochs, job.precision, job.streaming) == (0, 'float32', None)
    assert job.with_cp
    assert planned_job(config(repo, 'sapiens1b_a100'), SOME).precision == ('bfloat16')
    week = planned_job(config(repo, 'sapiens1b_gtx1650_week'), SOME)
    assert (week.frozen_stages, week.trained_blocks) == (24, 16)
    options = {'model.mode': 'exact', 'model.moment_dtype': 'bfloat16'}
    exact = planned_job(config(repo, 'sapiens1b_gtx1650', **options), SOME)
    assert exact.streaming.gradient_dtype == 'float32'
    assert exact.streaming.moment_dtype == 'bfloat16'


@pytest.mark.parametrize(
    'options, message',
    [
        ({'model.backbone.type': 'ResNet'}, 'backbone is ResNet'),
        ({'model': None}, 'not a job for a Sapiens.*backbone'),
        ({'train_cfg': None}, 'not a Sapiens training job'),
        ({'model.backbone.img_size': (100, 100)}, 'does not divide'),
        ({'train_dataloader.batch_size': 0}, 'train_dataloader.batch_size=0'),
        ({'val_dataloader.batch_size': None}, 'val_dataloader.batch_size=None'),
        ({'model.backbone.frozen_stages': 41}, 'frozen_stages=41 is not in -1 to 40'),
        ({'model.backbone.frozen_stages': None}, 'frozen_stages=None is not in'),
        ({'train_cfg.max_epochs': 'all'}, "max_epochs='all'"),
        ({'model.mode': 'tight'}, "model.mode='tight'"),
        ({'model.precision': 'int4'}, "model.precision='int4'"),
        ({'model.moment_dtype': 'int4'}, "model.moment_dtype='int4'"),
        ({'model.micro_batch': 0}, 'model.micro_batch=0'),
        ({'model.head.conv_kernel_sizes': (1,)}, '2 conv_out_channels and 1'),
        ({'train_dataloader.num_workers': -1}, 'num_workers=-1'),
        ({'train_dataloader': None}, 'has no train_dataloader'),
        ({'train_cfg.max_epochs': 10}, 'begins at epoch 10 and ends at epoch 10'),
    ],
)
def test_what_is_no_sapiens_job_is_refused(repo, options, message):
    cfg = config(repo, 'sapiens1b_gtx1650', **options)
    with pytest.raises(InputError, match=message):
        planned_job(cfg, SOME)


def test_checkpoints_may_come_at_the_end_alone(repo):
    options = {'default_hooks.checkpoint.interval': -1}
    job = planned_job(config(repo, 'sapiens1b_gtx1650', **options), SOME)
    assert job.checkpoints.interval == 0


def test_validations_are_those_of_mmengine(repo):
    options = {'train_cfg.val_interval': 20, 'train_cfg.val_begin': 50}
    job = planned_job(config(repo, 'sapiens1b_gtx1650', **options), SOME)
    assert job.validation_epochs == (60, 80, 100, 110)
    job = planned_job(config(repo, 'sapiens1b_gtx1650'), SOME)
    assert job.validation_epochs == tuple(range(1, 111))


def test_what_is_no_config_is_refused(tmp_path):
    with pytest.raises(InputError, match=r'nowhere.py does not exist'):
        load_config(tmp_path / 'nowhere.py')
    path = tmp_path / 'broken.py'
    path.write_text('model = dict(', encoding='utf-8')
    with pytest.raises(InputError, match=r'broken.py cannot be read'):
        load_config(path)


def test_persons_are_counted(demo_config, demo):
    people = json.loads(demo.annotations('train').read_text(encoding='utf-8'))
    trained = sum(1 for p in people['annotations'] if p['num_keypoints'])
    assert count_persons(demo_config).train == 24 < trained  # its first ones
    del demo_config.train_dataloader.dataset['indices']
    persons = count_persons(demo_config)
    assert persons.train == trained
    assert persons.test == persons.val > 0
    assert persons.notes == ()


@pytest.mark.parametrize(
    ('wrap', 'times'),
    [
        (lambda one: dict(type='RepeatDataset', times=3, dataset=one), 3),
        (lambda one: dict(type='ConcatDataset', datasets=[one, one]), 2),
        (
            lambda one: dict(
                type='CombinedDataset',
                metainfo=dict(from_file='configs/_base_/datasets/coco.py'),
                datasets=[one, dict(type='RepeatDataset', times=2, dataset=one)],
                sample_ratio_factor=[1.0, 0.5],
                pipeline=[],
            ),
            2,
        ),
        (lambda one: dict(one, indices=5), None),
        (lambda one: dict(one, sample_interval=4), None),
        (lambda one: dict(one, type='OCHumanDataset'), None),
    ],
)
def test_what_a_job_would_read_is_counted(demo_config, make_runner, wrap, times):
    once = count_persons(demo_config).train
    dataset = demo_config.train_dataloader.pop('dataset')
    demo_config.train_dataloader.dataset = wrap(dataset)
    persons = count_persons(demo_config)
    built = DATASETS.build(demo_config.train_dataloader.dataset)
    assert persons.train == len(built) and persons.notes == ()
    assert persons.train == once * times if times else persons.train <= once


def test_a_plan_tells_what_is_odd_about_the_schedules(demo_config):
    demo_config.train_cfg.max_epochs = 200
    told = ' '.join(planned_job(demo_config).persons.notes)
    assert 'The last 187 of 200 epochs' in told
    assert 'takes 60 optimizer steps, and there are 3' in told
    assert planned_job(demo_config, SOME).persons.train == SOME.train


def test_tests_are_counted_without_reading(demo_config):
    assert persons_in_tests(demo_config, 8) == (8, ())  # those of the validations
    dataset = demo_config.test_dataloader.dataset
    dataset.bbox_file = 'data/COCO_val2017_detections_AP_H_70_person.json'
    persons, (note,) = persons_in_tests(demo_config, 8)
    assert persons == VAL.boxes == 104_000 and 'not counted' in note
    dataset.bbox_file = 'own.json'
    persons, (note,) = persons_in_tests(demo_config, 8)
    assert persons == 0 and 'not planned' in note
    demo_config.test_dataloader = None
    assert persons_in_tests(demo_config, 8) == (0, ())


def test_a_job_by_iterations_is_none_to_plan(demo_config):
    demo_config.train_cfg = dict(by_epoch=False, max_iters=2)
    with pytest.raises(InputError, match=r'not a Sapiens training job.*max_epochs'):
        planned_job(demo_config, SOME)


@pytest.mark.parametrize(('batch', 'length'), [(8, 3), (10, 3), (24, 1), (32, 1)])
def test_a_smaller_last_batch_counts(demo_config, batch, length):
    demo_config.train_dataloader.batch_size = batch  # of 24 pictures
    assert epoch_length(demo_config) == length


def test_without_files_coco_is_taken_and_said(demo_config, tmp_path):
    demo_config.train_dataloader.dataset.data_root = str(tmp_path)
    boxes = tmp_path / 'boxes.json'
    demo_config.test_dataloader.dataset.bbox_file = str(boxes)
    persons = count_persons(demo_config)
    assert persons.train == TRAIN.persons == 149_813
    assert persons.test == 104_000
    assert 'train.json is not there' in persons.notes[0]
    assert 'boxes.json' in persons.notes[1]
    boxes.write_text('[1, 2, 3]', encoding='utf-8')
    assert count_persons(demo_config).test == 3


def test_a_data_set_without_persons_is_refused(demo_config, demo, tmp_path):
    people = json.loads(demo.annotations('train').read_text(encoding='utf-8'))
    people['annotations'] = []
    path = tmp_path / 'nobody.json'
    path.write_text(json.dumps(people), encoding='utf-8')
    demo_config.train_dataloader.dataset.ann_file = str(path)
    with pytest.raises(InputError, match=r'nobody.json has no person'):
        count_persons(demo_config)
    boxes = tmp_path / 'none.json'
    boxes.write_text('[]', encoding='utf-8')
    demo_config.train_dataloader.dataset.ann_file = 'not there'
    demo_config.test_dataloader.dataset.bbox_file = str(boxes)
    with pytest.raises(InputError, match='holds no boxes'):
        count_persons(demo_config)


def test_measuring_follows_the_job_and_not_the_config(repo):
    cfg = config(repo, 'sapiens_tiny_demo')
    job, measure = planned_job(cfg, SOME), stage_measurer(cfg)

    def measured(warmup=False, **changes):
        return measure(
            job.changed(**changes), warmup=warmup, training=True, dtype=torch.float32
        )

    assert measured().first_trainable == 0
    assert measured(frozen_stages=0).first_trainable == 1
    assert measured(frozen_stages=2).first_trainable == 3
    assert measured(frozen_stages=4).first_trainable == 5
    assert measured(warmup=True, frozen_stages=2).first_trainable == 5
    assert measured(img_size=(256, 192)).token_bytes == 4 * measured().token_bytes
    assert measured(batch=4).block.peak < measured().block.peak


def test_other_parts_are_counted_as_they_are_built(demo_config):
    width = demo_config.model.head.in_channels
    neck = dict(type='ChannelMapper', in_channels=[width], out_channels=width,
                kernel_size=3)  # fmt: skip
    demo_config.model.neck = neck
    job, measure = planned_job(demo_config, SOME), stage_measurer(demo_config)
    step = measure(job, warmup=False, training=True, dtype=torch.float32)
    extra = 9 * width**2 + 3 * width  # with its norm, or its bias
    whole = with_all_params(job, step)
    assert 0 < whole.num_params - job.num_params <= extra
    assert whole.num_trained() - job.num_trained() == whole.other_params
    assert with_all_params(whole, step) == whole
    plan = make_plan(job, get_card('rtx3060'), measure)
    assert plan.disk == whole.disk_use() != job.disk_use()


def test_a_test_without_data_is_no_test(demo_config):
    demo_config.test_dataloader = dict(batch_size=1)
    assert persons_in_tests(demo_config, 7) == (0, ())


def test_a_job_that_validates_nothing(repo):
    options = {'val_dataloader': None, 'test_dataloader': None}
    cfg = config(repo, 'sapiens_tiny_demo', **options)
    job = planned_job(cfg)
    assert job.validation_epochs == ()
    assert (job.persons.val, job.persons.test) == (0, 0)
