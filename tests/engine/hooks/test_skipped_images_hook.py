"""A run goes on without a few bad images, and tells which they are."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sapiens_plugin.engine.hooks.skipped_images_hook import LIST_NAME, SkippedImagesHook
from sapiens_plugin.errors import InputError, UnreadableImage


@pytest.fixture
def job(demo, demo_config, tmp_path):
    """A job of 24 and 8 images that can be spoiled, and its images."""
    root = shutil.copytree(demo.root, tmp_path / 'demo')
    for split in ('train', 'val', 'test'):
        demo_config[f'{split}_dataloader'].dataset.data_root = str(root)
    demo_config.train_dataloader.dataset.pop('indices')
    demo_config.train_cfg.update(max_epochs=2, val_interval=2)
    demo_config.param_scheduler = None
    for name in ('report', 'pictures'):
        demo_config.default_hooks.pop(name)
    allow(demo_config, 0.5)
    return demo_config, root / 'images'


def allow(cfg, max_share):
    for name in ('skipped_images', 'images'):
        cfg.default_hooks[name].max_share = max_share


def spoil(folder, *places):
    paths = sorted(folder.iterdir())
    for place in places:
        paths[place].write_bytes(paths[place].read_bytes()[:-1000])
    return [str(paths[place]) for place in places]


def listed(cfg):
    text = (Path(cfg.work_dir) / LIST_NAME).read_text('utf-8')
    assert text.endswith('\n')
    return [tuple(line.split('\t')) for line in text.splitlines()]


def log_of(runner):
    (path,) = Path(runner.log_dir).glob('*.log')
    return path.read_text('utf-8')


@pytest.mark.parametrize('workers', [0, 1])
def test_training_goes_on_without_some_images(job, make_runner, workers):
    cfg, images = job
    cfg.train_dataloader.num_workers = workers
    cut = spoil(images / 'train', 2, 9)
    missing = sorted((images / 'train').iterdir())[5]
    missing.unlink()
    runner = make_runner(cfg)
    runner.train()
    assert runner.epoch == 2
    expected = {path: 'it is cut short' for path in cut}
    expected[str(missing)] = 'it is missing'
    # Twice read, and once listed.
    assert len(listed(cfg)) == 3 and dict(listed(cfg)) == expected
    log = log_of(runner)
    assert f'1 of 24 images that {images.parent}' in log and missing.name in log
    for path, reason in expected.items():
        told = f'The image {path} cannot be read: {reason}. Another one takes its place'
        assert log.count(told) == 1


def test_too_many_bad_images_stop_the_training(job, make_runner):
    cfg, images = job
    allow(cfg, 0.05)  # one of 24
    bad = spoil(images / 'train', 1, 12)
    runner = make_runner(cfg)
    with pytest.raises(InputError) as error:
        runner.train()
    message = str(error.value)
    assert message.startswith('2 of 24 training images cannot be read, more than 5.0%')
    assert any(path in message for path in bad) and 'it is cut short' in message
    assert LIST_NAME in message and '--resume' in message
    assert sorted(path for path, _ in listed(cfg)) == bad
    assert runner.epoch == 0
    # Nothing that was learned is lost, and it stopped between two steps.
    (saved,) = Path(cfg.work_dir).glob('iter_*.pth')
    assert f'Its state is in {saved}.' in message
    assert int(saved.stem.removeprefix('iter_')) % 2 == 0


def test_every_start_counts_anew_and_lists_what_is_new(job, make_runner):
    cfg, images = job
    allow(cfg, 0.05)
    first = spoil(images / 'train', 1)
    make_runner(cfg).train()
    assert [path for path, _ in listed(cfg)] == first
    # A line that a power cut left half written is not added to.
    path = Path(cfg.work_dir) / LIST_NAME
    path.write_bytes(path.read_bytes() + b'/data/imag')
    second = spoil(images / 'train', 12)
    (images / 'train' / Path(first[0]).name).write_bytes(
        sorted((images / 'train').iterdir())[0].read_bytes()
    )
    make_runner(cfg).train()
    assert [entry[0] for entry in listed(cfg)] == [*first, '/data/imag', *second]
    spoil(images / 'train', 1)
    with pytest.raises(InputError, match='2 of 24 training images'):
        make_runner(cfg).train()
    assert len(listed(cfg)) == 3


def test_what_other_processes_find_counts_and_is_not_listed_again(job, make_runner):
    cfg, images = job
    allow(cfg, 0.05)
    paths = list(map(str, sorted((images / 'train').iterdir())))
    runner = make_runner(cfg)
    runner.train_loop  # noqa: B018  (makes the loader)
    runner.optim_wrapper = SimpleNamespace(should_update=lambda: True)
    runner._hooks = []
    hook = SkippedImagesHook(max_share=0.05)
    other_val = str(images / 'val' / 'x.jpg')

    def batch(*skipped):
        class Sample:
            metainfo = dict(skipped_images=[(path, 'gone') for path in skipped])

        return dict(data_samples=[Sample()])

    path = Path(cfg.work_dir) / LIST_NAME
    path.write_text(f'{paths[7]}\tof an earlier start\n', encoding='utf-8')
    runner._val_loop = None
    hook.before_train(runner)
    hook.after_train_iter(runner, 0, batch())
    with path.open('a', encoding='utf-8') as file:
        file.write(f'{other_val}\tgone\n')
    hook.after_train_iter(runner, 0, batch(paths[0]))  # one of 24
    assert len(listed(cfg)) == 3
    with path.open('a', encoding='utf-8') as file:
        file.write(f'{paths[1]}\tgone\n')
    hook.after_val_iter(runner, 0, batch(other_val))
    assert len(listed(cfg)) == 4
    with pytest.raises(InputError, match='3 of 24'):
        hook.after_train_iter(runner, 0, batch(paths[2], paths[0]))
    assert len(listed(cfg)) == 5


def test_a_validation_goes_on_and_a_test_does_not(job, make_runner):
    cfg, images = job
    bad = spoil(images / 'val', 3)
    cfg.default_hooks.checkpoint = dict(
        type='CheckpointHook', interval=1, by_epoch=True, save_last=True
    )
    cfg.train_cfg.val_interval = 1
    runner = make_runner(cfg)
    runner.train()
    assert listed(cfg) == [(bad[0], 'it is cut short')]
    assert log_of(runner).count('A blank picture takes its place') == 1
    assert 'coco/AP' in log_of(runner)
    cfg.load_from = f'{cfg.work_dir}/epoch_2.pth'
    with pytest.raises(UnreadableImage, match='cut short'):
        make_runner(cfg).test()


def test_missing_images_are_no_matter_for_a_validation_in_training(job, make_runner):
    cfg, images = job
    missing = sorted((images / 'val').iterdir())[3]
    missing.unlink()
    runner = make_runner(cfg)
    runner.train()
    assert listed(cfg) == [(str(missing), 'it is missing')]
    with pytest.raises(InputError, match='1 of 8 images'):
        make_runner(cfg).test()


def test_blank_pictures_show_nobody(job, make_runner):
    cfg, images = job
    spoil(images / 'val', *range(8))
    runner = make_runner(cfg)
    runner.build_train_loop(cfg.train_cfg)
    runner._val_loop = runner.build_val_loop(cfg.val_cfg)
    hook = SkippedImagesHook()
    hook.before_train(runner)
    dataset = runner.val_dataloader.dataset
    assert len(dataset) == 8
    for sample in dataset:
        assert not np.asarray(sample['inputs']).any()
        assert len(sample['data_samples'].metainfo['skipped_images']) == 1


def test_a_list_that_cannot_be_written_stops_nothing(job, make_runner):
    cfg, images = job
    spoil(images / 'train', 2)
    (Path(cfg.work_dir) / LIST_NAME).mkdir(parents=True)
    runner = make_runner(cfg)
    runner.train()
    assert f'{LIST_NAME} cannot be written' in log_of(runner)


def test_any_name_of_a_file_is_one_line(job, make_runner):
    cfg, images = job
    path = images.parent / 'annotations' / 'person_keypoints_train.json'
    content = json.loads(path.read_text('utf-8'))
    victim = content['images'][4]
    victim['file_name'] = 'two\nlines\t\ud800.jpg'
    path.write_text(json.dumps(content), encoding='utf-8')
    make_runner(cfg).train()
    ((name, reason),) = listed(cfg)
    assert name.endswith('two\\nlines\\t\\ud800.jpg') and reason


PROCESS = """
import logging
import os
import sys
from types import SimpleNamespace
import torch
import torch.multiprocessing as mp
import sapiens_plugin.registry
from sapiens_plugin.engine.hooks.skipped_images_hook import SkippedImagesHook
from sapiens_plugin.errors import InputError

def run(rank, folder):
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    hook = SkippedImagesHook(max_share=0.05)
    hook._train_images = set('abcdefghijklmnopqrstuvwx')
    runner = SimpleNamespace(
        work_dir=folder, hooks=[], logger=logging.getLogger(),
        optim_wrapper=SimpleNamespace(should_update=lambda: step % 2 == 0))
    try:
        for step, bad in enumerate(['', 'ab' * rank, ''] * 2):
            sample = SimpleNamespace(
                metainfo=dict(skipped_images=[(path, 'gone') for path in bad]))
            hook.after_train_iter(runner, step, dict(data_samples=[sample]))
    except InputError as error:
        os.write(1, f'\\n{rank} {step} {error}\\n'.encode())  # at once: two write

mp.start_processes(run, (sys.argv[1],), nprocs=2, start_method='fork')
"""


@pytest.mark.skipif(sys.platform == 'win32', reason='it forks')
def test_two_processes_stop_together(two_processes, tmp_path):
    first, second = two_processes(PROCESS, tmp_path)
    # The one at fault knew in step 1; a step of the optimizer ended with step 2.
    assert first.startswith('0 2 2 of 24 training images cannot be read')
    assert first[1:] == second[1:]
