"""docs/changing.md: each line of it, run on a config that it fits."""

import re
from pathlib import Path

import pytest

import sapiens_plugin.registry  # noqa: F401  (first: it repairs what is imported)
from sapiens_plugin.errors import InputError
from sapiens_plugin.jobs.agreement import disagreements
from sapiens_plugin.jobs.read_config import load_config
from sapiens_plugin.jobs.schedule import schedule_notes

REPO = Path(__file__).parents[1]
PAGE = (REPO / 'docs' / 'changing.md').read_text('utf-8')
(EXAMPLE,) = re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL)
WISHES, ONE_RUN = (
    dict(re.findall(r'^\| ([^|]+) \| `([^`]+)` \|$', part, re.MULTILINE))
    for part in PAGE.split('## For one run')
)
NAMES = 'epochs, on_data, resized, sapiens, streamed, training_steps, two_phases'

# What each line is to change, as Python on the new config and the old one.
EXPECTED = {
    'another input size (height, width), px': 'cfg.codec.input_size == (240, 320)',
    'another Sapiens: `0.3b`, `0.6b`, `1b`, `2b`': 'cfg.model.head.in_channels == 1024',
    'the same schedule in other epochs': 'cfg.param_scheduler[-1].end == 20',
    '… and a shorter phase of the head alone': 'cfg.param_scheduler[-1].begin == 2',
    'the head alone first, then everything': 'cfg.train_cfg.max_epochs == 60',
    '… with fewer steps to the full rate, for few persons': (
        '[s.get("optimizer_steps") for s in cfg.param_scheduler] == [50, 50, None]'
    ),
    'your own data ([own_data.md](own_data.md))': 'cfg.model.head.out_channels == 2',
    'weights in host memory ([streaming.md](streaming.md))': (
        'cfg.model.get("micro_batch") == 2 and cfg.model.vram_budget == 3000'
    ),
    '… with the bits of ordinary training': 'cfg.model.get("mode") == "exact"',
    'no half bodies': 'len(cfg.train_pipeline) == len(old.train_pipeline) - 1',
    'other rotations and scales': (
        '[s.rotate_factor for s in cfg.train_pipeline if "rotate_factor" in s] == [15]'
    ),
    'hold the first 24 layers': 'cfg.model.backbone.get("frozen_stages") == 24',
    'another learning rate': 'cfg.optim_wrapper.optimizer.lr == 1e-4',
    '8 × 4 images a step, where weights are on the GPU': (
        'cfg.optim_wrapper.get("accumulative_counts") == 8 and '
        'cfg.train_dataloader.batch_size == 4'
    ),
    'a validation every 5 epochs': 'cfg.train_cfg.val_interval == 5',
    'start from a whole pose model': '(cfg.load_from or "").endswith("epoch_9.pth")',
    'an average of the weights (not for streamed jobs)': (
        'len(cfg.get("custom_hooks", [])) == 1'
    ),
    'one image at a time (streamed)': 'cfg.model.micro_batch == 1',
    'a checkpoint every 10 minutes': (
        'cfg.default_hooks.checkpoint.interval_minutes == 10'
    ),
    'a log line every 10 iterations': 'cfg.default_hooks.logger.interval == 10',
    'no pictures of validation persons': 'cfg.default_hooks.pictures is None',
    'no limit on spikes of the loss': (
        'cfg.default_hooks.step_guard.spike_factor is None'
    ),
    'flip testing in validation, too': 'cfg.default_hooks.flip_test.val',
    'another seed': 'cfg.randomness.seed == 1',
}


def test_every_line_is_tried():
    assert EXPECTED.keys() == WISHES.keys() | ONE_RUN.keys()
    # Nothing that looks like a line is left out.
    assert len(re.findall(r'^\| .*` \|$', PAGE, re.MULTILINE)) == len(EXPECTED)


@pytest.fixture
def own(tmp_path):
    """Write a config below the text that it is given, in a checkout's folders."""
    folder = tmp_path / 'configs'
    folder.mkdir()
    (folder / 'workers_keypoints.py').write_text(
        'dataset_info = dict(dataset_name="workers", keypoint_info={\n'
        "0: dict(name='a', id=0, type='', swap=''),\n"
        "1: dict(name='b', id=1, type='', swap='')},\n"
        'skeleton_info={}, joint_weights=[1, 1], sigmas=[0.1, 0.1])'
    )

    def write(text: str) -> Path:
        for name in re.findall(r"_base_ = '(.*?)'", text):
            shipped = (REPO / 'configs' / name).as_posix()
            text = text.replace(f"'{name}'", repr(shipped))
        (folder / 'own.py').write_text(text, encoding='utf-8')
        return folder / 'own.py'

    return write


@pytest.mark.parametrize('wish', WISHES)
def test_a_wish_is_a_line(own, wish):
    old = load_config(REPO / 'configs' / 'sapiens1b_a100.py')
    path = own(
        "_base_ = 'sapiens1b_a100.py'\n"
        f'from sapiens_plugin.recipe import {NAMES}, recipe\n\n'
        f'globals().update(recipe(_base_, {WISHES[wish]}))\n'
    )
    cfg = load_config(path)
    assert eval(EXPECTED[wish], dict(cfg=cfg, old=old))
    assert not eval(EXPECTED[wish], dict(cfg=old, old=old))
    assert not list(disagreements(cfg, 'train', 'val', 'test'))
    assert not schedule_notes(cfg)


@pytest.mark.parametrize('wish', ONE_RUN)
def test_an_option_reaches_what_it_names(wish):
    from mmengine.config import DictAction

    path = REPO / 'configs' / 'sapiens1b_gtx1650_week.py'
    key, _, value = ONE_RUN[wish].partition('=')
    changes = {key: DictAction._parse_iterable(value)}
    cfg = load_config(path, changes)
    if wish != 'a log line every 10 iterations':  # which this job has already
        assert not eval(EXPECTED[wish], dict(cfg=load_config(path)))
    assert eval(EXPECTED[wish], dict(cfg=cfg))
    assert not list(disagreements(cfg, 'train', 'val', 'test'))


def test_the_example_is_a_config(own):
    cfg = load_config(own(EXAMPLE))
    assert cfg.codec.input_size == (240, 320)
    assert cfg.train_cfg.max_epochs == 20
    with pytest.raises(InputError, match=r'line 5: model is assigned, and recipe\(\)'):
        load_config(own(EXAMPLE + 'model = dict(micro_batch=1)\n'))
