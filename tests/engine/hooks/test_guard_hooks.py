"""Hooks that notice what would go wrong silently."""

import shutil
from pathlib import Path

import pytest
import torch
from mmengine.runner.checkpoint import CheckpointLoader

from sapiens_plugin.errors import InputError


def copy_of(demo, tmp_path):
    return shutil.copytree(demo.root, tmp_path / 'demo')


def test_a_missing_training_image_is_named_before_the_first_step(
    demo, demo_config, make_runner, tmp_path
):
    root = copy_of(demo, tmp_path)
    victim = sorted((root / 'images' / 'train').iterdir())[5]
    victim.unlink()
    demo_config.train_dataloader.dataset.data_root = str(root)
    runner = make_runner(demo_config)
    with pytest.raises(InputError, match=rf'1 of \d+ images.*{victim.name}'):
        runner.train()
    assert runner.iter == 0


def test_missing_validation_and_test_images_are_named_too(
    demo, demo_config, make_runner, tmp_path
):
    root = copy_of(demo, tmp_path)
    shutil.rmtree(root / 'images' / 'val')
    demo_config.val_dataloader.dataset.data_root = str(root)
    demo_config.test_dataloader.dataset.data_root = str(root)
    with pytest.raises(InputError, match='8 of 8 images'):
        make_runner(demo_config).train()
    with pytest.raises(InputError, match='8 of 8 images'):
        make_runner(demo_config).test()


def test_images_are_looked_for_inside_combined_data_sets(
    demo_config, make_runner, demo, tmp_path
):
    part = demo_config.train_dataloader.dataset
    root = copy_of(demo, tmp_path)
    shutil.rmtree(root / 'images' / 'train')
    demo_config.train_dataloader.dataset = dict(
        type='CombinedDataset',
        metainfo=dict(from_file='configs/_base_/datasets/coco.py'),
        datasets=[part, dict(part, data_root=str(root))],
        pipeline=[],
    )
    with pytest.raises(InputError, match=str(root)):
        make_runner(demo_config).train()


@pytest.fixture
def checkpoint(demo_config, make_runner, tmp_path):
    state = make_runner(demo_config).model.state_dict()
    path = tmp_path / 'whole.pth'
    torch.save({'state_dict': state, 'meta': {'epoch': 1, 'iter': 3}}, path)
    return path


def test_a_checkpoint_that_fits_is_tested(demo_config, make_runner, checkpoint):
    demo_config.load_from = str(checkpoint)
    assert 'coco/AP' in make_runner(demo_config).test()


@pytest.mark.parametrize(
    'edit, message',
    [
        (
            lambda s: s.pop('backbone.ln1.bias'),
            r'backbone.ln1.bias \(absent in the file',
        ),
        (
            lambda s: s.update({'head.final_layer.bias': torch.zeros(133)}),
            r'head.final_layer.bias \(133 in the file, 17 in the model',
        ),
        (
            lambda s: s.update({'backbone.mask_token': torch.zeros(1)}),
            r'backbone.mask_token \(1 in the file, absent in the model',
        ),
    ],
)
def test_a_checkpoint_that_would_load_in_part_is_refused(
    edit, message, demo_config, make_runner, checkpoint
):
    content = torch.load(checkpoint)
    edit(content['state_dict'])
    torch.save(content, checkpoint)
    demo_config.load_from = str(checkpoint)
    with pytest.raises(InputError, match=message):
        make_runner(demo_config).test()


def test_weights_alone_cannot_be_resumed(demo_config, make_runner, checkpoint):
    demo_config.update(resume=True, load_from=str(checkpoint))
    with pytest.raises(InputError, match='holds weights alone'):
        make_runner(demo_config).train()


@pytest.mark.parametrize(
    'change, warns',
    [
        (dict(lr=2e-3), False),
        (dict(lr=1e-3), True),
        (dict(weight_decay=0.3), True),
        (dict(betas=(0.8, 0.95)), True),
    ],
)
def test_a_changed_schedule_is_said_to_be_ignored(
    change, warns, demo_config, make_runner
):
    demo_config.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1)
    demo_config.train_cfg.max_epochs = 2
    make_runner(demo_config).train()
    demo_config.optim_wrapper.optimizer.update(change)
    demo_config.update(resume=True, load_from=f'{demo_config.work_dir}/epoch_1.pth')
    runner = make_runner(demo_config)
    runner.train()
    (log,) = Path(runner.log_dir).glob('*.log')
    assert ('param_scheduler of the config differs' in log.read_text('utf-8')) == warns


def test_resuming_runs_no_config_out_of_a_checkpoint(
    demo_config, make_runner, tmp_path
):
    demo_config.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1)
    demo_config.train_cfg.max_epochs = 1
    demo_config.param_scheduler = None
    make_runner(demo_config).train()
    path = f'{demo_config.work_dir}/epoch_1.pth'
    content = CheckpointLoader.load_checkpoint(path)
    marker = tmp_path / 'executed'
    content['meta']['config'] = f"open({str(marker)!r}, 'w')"
    torch.save(content, tmp_path / 'hostile.pth')
    demo_config.train_cfg.max_epochs = 2
    demo_config.update(resume=True, load_from=str(tmp_path / 'hostile.pth'))
    make_runner(demo_config).train()
    assert not marker.exists()


def test_flip_testing_is_for_tests_alone(demo_config, make_runner, checkpoint):
    demo_config.load_from = str(checkpoint)
    demo_config.train_cfg.update(max_epochs=1, val_interval=1)
    demo_config.param_scheduler = None
    calls = []
    for run in ('train', 'test'):
        runner = make_runner(demo_config)
        head = runner.model.head
        predict = head.predict

        def noting(feats, *args, run=run, predict=predict, **kwargs):
            calls.append((run, len(feats)))
            return predict(feats, *args, **kwargs)

        head.predict = noting
        getattr(runner, run)()
    # One feature map, or a list of the plain and the mirrored one.
    assert set(calls) == {('train', 1), ('test', 2)}
