"""Wishes: what each changes, that they compose, and that MMEngine reads the result."""

import itertools
import random
from pathlib import Path

import pytest
from mmengine.config import Config

import sapiens_plugin.registry  # noqa: F401  (makes the names known)
from sapiens_plugin.errors import InputError
from sapiens_plugin.jobs.agreement import disagreements
from sapiens_plugin.jobs.read_config import load_config
from sapiens_plugin.recipe import (
    PRETRAINED,
    epochs,
    on_data,
    recipe,
    resized,
    sapiens,
    streamed,
    training_steps,
    two_phases,
)
from sapiens_plugin.workbench.config_files import _OF_RECIPES

OWN = dict(root='/own', train='train.json', val='val.json', images='images/')
WISHES = {
    'sapiens': sapiens('0.3b'),
    'resized': resized(320, 240),
    'two_phases': two_phases(warmup_epochs=2, max_epochs=20),
    'epochs': epochs(30, warmup_epochs=3),
    'on_data': on_data(**OWN),
    'streamed': streamed(micro_batch=1, vram_budget=2000),
    'training_steps': training_steps(
        RandomHalfBody=None, RandomFlip=dict(direction='vertical')
    ),
    'dict': dict(
        model=dict(backbone=dict(drop_path_rate=0.3)),
        optim_wrapper=dict(clip_grad=dict(_delete_=True, max_norm=2.0)),
        default_hooks=dict(pictures=None),
    ),
}
SCHEDULES = {'two_phases', 'epochs'}  # the later one says the epochs


CONFIGS = Path(__file__).parents[1] / 'configs'


@pytest.fixture(scope='module')
def base():
    return Config.fromfile(CONFIGS / 'sapiens1b_a100.py')._cfg_dict


def merged(base, changes) -> dict:
    """What MMEngine makes of a config that is nothing but these changes."""
    return Config(Config._merge_a_into_b(changes, base)).to_dict()


@pytest.mark.parametrize('first, second', [*itertools.permutations(WISHES, 2)])
def test_wishes_compose_in_both_orders(base, first, second):
    before = base.to_dict()
    both = merged(base, recipe(base, WISHES[first], WISHES[second]))
    assert base.to_dict() == before
    after_first = merged(base, recipe(base, WISHES[first]))
    assert both == merged(after_first, recipe(after_first, WISHES[second]))
    assert both != after_first
    if {first, second} != SCHEDULES:
        assert both == merged(base, recipe(base, WISHES[second], WISHES[first]))
    assert not list(disagreements(Config(both), 'train', 'val', 'test'))


def test_configs_tell_assignments_that_would_replace_a_wish(base):
    changed = {key for wish in WISHES.values() for key in recipe(base, wish)}
    assert changed - {'data_root'} <= set(_OF_RECIPES)


def test_dicts_are_merged_as_mmengine_merges_them():
    draw = random.Random(0)

    def some(depth: int) -> object:
        if depth == 0 or draw.random() < 0.3:
            return draw.choice([1, 'text', None, [1, dict(a=2)], (3,)])
        return {key: some(depth - 1) for key in draw.sample('abcd', 3)}

    compared = refused = 0
    for _ in range(500):
        old, new = ({key: some(3) for key in 'abc'} for _ in range(2))
        for value in new.values():
            if isinstance(value, dict) and draw.random() < 0.3:
                value['_delete_'] = True
        try:
            expected = merged(Config(old)._cfg_dict, Config(new).to_dict())
        except TypeError:
            with pytest.raises(InputError, match=r'_delete_=True'):
                recipe(old, new)
            refused += 1
            continue
        assert merged(Config(old)._cfg_dict, recipe(old, new)) == expected
        compared += 1
    assert compared > 100 < refused


def change(base, *wishes) -> Config:
    return Config(merged(base, recipe(base, *wishes)))


def test_another_size_is_found_in_wrapped_data_sets(base):
    loader = base.train_dataloader.to_dict()
    part = loader['dataset']
    combined = dict(type='CombinedDataset', datasets=[part, dict(part, pipeline=[])],
                    pipeline=part['pipeline'][-2:])  # fmt: skip
    wrapped = dict(train_dataloader=dict(dataset=dict(_delete_=True, **combined)))
    cfg = change(base, wrapped, resized(256, 192))
    steps = cfg.train_dataloader.dataset.pipeline
    assert steps[0].encoder.input_size == (192, 256)
    assert steps[0].encoder.heatmap_size == (48, 64)
    inner = cfg.train_dataloader.dataset.datasets[0].pipeline
    assert [s.input_size for s in inner if 'input_size' in s] == [(192, 256)]


@pytest.mark.parametrize(
    'height, sigma', [(1024, 6), (768, 6), (512, 4), (384, 3), (320, 2.5), (256, 2)]
)
def test_targets_are_as_wide_as_published(base, height, sigma):
    cfg = change(base, resized(height, height * 3 // 4))
    assert cfg.model.head.decoder.sigma == sigma == cfg.codec.sigma
    assert change(base, resized(height, 192, sigma=1.7)).codec.sigma == 1.7


def test_weights_lie_beside_those_of_the_config(base):
    for size in ('0.3b', '0.6b', '1b', '2b'):
        checkpoint = change(base, sapiens(size)).model.backbone.init_cfg.checkpoint
        file = PRETRAINED[f'sapiens_{size}']
        assert checkpoint.endswith(f'data/pretrained/sapiens_{size}/{file}')
    for frozen, size, now in ((24, '0.3b', 8), (8, '0.3b', -1), (24, '2b', 32)):
        held = dict(model=dict(backbone=dict(frozen_stages=frozen)))
        assert change(base, held, sapiens(size)).model.backbone.frozen_stages == now
    random_weights = dict(model=dict(backbone=dict(init_cfg=None)))
    assert change(base, random_weights, sapiens('2b')).model.backbone.init_cfg is None


def test_a_streamed_job_keeps_what_was_chosen(base):
    chosen = dict(
        optim_wrapper=dict(
            optimizer=dict(lr=7e-4, eps=1e-7, fused=True), accumulative_counts=2
        )
    )
    cfg = change(base, chosen, streamed())
    assert cfg.optim_wrapper.optimizer == dict(
        type='sapiens_plugin.HostAdamW', lr=7e-4, eps=1e-7, betas=(0.9, 0.999),
        weight_decay=0.1,
    )  # fmt: skip
    assert cfg.optim_wrapper.keys().isdisjoint(
        {'dtype', 'loss_scale', 'accumulative_counts'}
    )
    assert cfg.train_dataloader.batch_size == 64 == cfg.auto_scale_lr.base_batch_size
    assert cfg.val_dataloader.batch_size == cfg.test_dataloader.batch_size == 8
    assert cfg.model.mode == 'compact' and cfg.model.micro_batch == 2
    assert 'with_cp' not in cfg.model.backbone
    again = change(cfg._cfg_dict, streamed(mode='exact'))
    assert again.model.mode == 'exact' and again.model.micro_batch == 2
    assert again.train_dataloader == cfg.train_dataloader


def test_a_job_without_validation_is_changed_alike(base):
    alone = dict.fromkeys(('val_dataloader', 'val_cfg', 'val_evaluator'))
    cfg = change(base, alone, streamed(), on_data(**OWN), resized(256, 192))
    assert cfg.val_dataloader is None
    assert cfg.test_dataloader.dataset.ann_file == 'val.json'


def test_schedules_move_with_the_epochs(base):
    cfg = change(base, epochs(22, warmup_epochs=2))
    assert [s.get('begin') for s in cfg.param_scheduler] == [0, 2, 2]
    assert cfg.param_scheduler[-1].end == 22 == cfg.train_cfg.max_epochs
    assert cfg.default_hooks.phase_switch.warmup_epochs == 2
    assert change(base, epochs(22)).default_hooks.phase_switch.warmup_epochs == 10
    # Two phases that begin at once would warm up twice.
    whole = change(base, epochs(20, warmup_epochs=0))
    kinds = ['sapiens_plugin.WarmupLR', 'CosineAnnealingLR']
    assert [s.type for s in whole.param_scheduler] == kinds
    steps = Config.fromfile(CONFIGS / 'sapiens1b_coco_1024x768.py')._cfg_dict
    cfg = change(steps, epochs(21))
    assert cfg.param_scheduler[-1].milestones == [17, 20]
    assert cfg.param_scheduler[-1].end == 21


def test_a_warm_up_stays_as_long_as_it_was(base):
    short = two_phases(
        warmup_epochs=1, max_epochs=9, optimizer_steps=40, start_factor=0.1
    )
    cfg = change(base, short, two_phases(warmup_epochs=2, max_epochs=20))
    assert [s.get('optimizer_steps') for s in cfg.param_scheduler] == [40, 40, None]
    assert [s.get('start_factor') for s in cfg.param_scheduler] == [0.1, 0.1, None]
    one = change(base, two_phases(warmup_epochs=0, max_epochs=20))
    assert [s.begin for s in one.param_scheduler] == [0, 0]


def test_own_keypoints_are_counted(base, tmp_path):
    file = tmp_path / 'points.py'
    file.write_text('dataset_info = dict(keypoint_info={0: {}, 1: {}, 2: {}})')
    cfg = change(base, on_data(**OWN, test='test.json', keypoints=file.as_posix()))
    assert cfg.model.head.out_channels == 3
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        assert (dataset.data_root, dataset.ann_file) == ('/own', f'{split}.json')
        assert dataset.data_prefix == dict(img='images/')
        assert dataset.metainfo == dict(from_file=file.as_posix())
        assert not dataset.get('bbox_file')
    folders = dict(train='a/', val='b/')
    cfg = change(base, on_data(**OWN | dict(images=folders)))
    names = [
        cfg[f'{s}_dataloader'].dataset.data_prefix.img for s in ('train', 'val', 'test')
    ]
    assert names == ['a/', 'b/', 'b/']
    assert cfg.test_dataloader.dataset.ann_file == 'val.json'


def test_steps_are_changed_by_name(base):
    cfg = change(base, training_steps(CutOut=None, RandomBlur=dict(median_prob=0.5)))
    for steps in (cfg.train_dataloader.dataset.pipeline, cfg.train_pipeline):
        kinds = {step.type: step for step in steps}
        assert 'mmdet.CutOut' not in kinds
        assert kinds['sapiens_plugin.RandomBlur'].median_prob == 0.5
        assert kinds['sapiens_plugin.RandomBlur'].gaussian_prob == 0.1


@pytest.mark.parametrize(
    'make, message',
    [
        (lambda: sapiens('5b'), r"sapiens\('5b'\) is none .* 0\.3b, 0\.6b, 1b, 2b"),
        (lambda: resized(380, 288), r'380×288 px .* 384×288'),
        (lambda: two_phases(warmup_epochs=9, max_epochs=9), r'max_epochs=9 are all'),
        (lambda: epochs(5), r'warmup_epochs=10 of them'),
        (lambda: training_steps(Blur=None), r'Blur=….*RandomBlur'),
        (lambda: on_data(**OWN, keypoints='/no.py'), r'/no\.py.*FileNotFoundError'),
        (lambda: on_data(**OWN | dict(images=dict(val='b/'))), r'train and of val'),
        (lambda: dict(train_cfg=dict(max_epochs=dict())), r'train_cfg: max_epochs'),
    ],
)
def test_wishes_that_cannot_be_met(base, make, message):
    with pytest.raises(InputError, match=message):
        recipe(base, make())


def test_wishes_that_do_not_go_with_the_config(base):
    sgd = dict(optim_wrapper=dict(optimizer=dict(_delete_=True, type='SGD', lr=1)))
    with pytest.raises(InputError, match='AdamW alone'):
        recipe(base, sgd, streamed())
    one_phase = dict(default_hooks=dict(phase_switch=None))
    with pytest.raises(InputError, match='this job has one phase'):
        recipe(base, one_phase, epochs(50, warmup_epochs=3))
    without = dict(train_cfg=dict(_delete_=True, type='X'))
    with pytest.raises(InputError, match=r'epochs\(50\): the config has no epochs yet'):
        recipe(base, without, epochs(50))
    several = dict(dataset=dict(_delete_=True, type='CombinedDataset', datasets=[]))
    with pytest.raises(InputError, match=r'train_dataloader\.dataset is a CombinedDat'):
        recipe(base, dict(train_dataloader=several), on_data(**OWN))


def test_a_config_elsewhere_dumped_and_reloaded(tmp_path):
    folder = tmp_path / 'läb configs'
    folder.mkdir()
    path = folder / 'mine.py'
    shipped = (CONFIGS / 'sapiens1b_gtx1650.py').as_posix()
    path.write_text(
        f'_base_ = {shipped!r}\n'
        'from sapiens_plugin.recipe import on_data, recipe, resized\n\n'
        "data = on_data(root='{{ fileDirname }}/data', train='a.json', val='b.json',\n"
        "               images='images/')\n"
        'globals().update(recipe(_base_, resized(320, 240), data))\n',
        encoding='utf-8',
    )
    cfg = load_config(path, {'default_hooks.phase_switch.warmup_epochs': 3})
    assert cfg.model.backbone.img_size == (320, 240)
    assert cfg.default_hooks.phase_switch.warmup_epochs == 3
    assert cfg.train_dataloader.dataset.data_root == f'{folder.as_posix()}/data'
    assert cfg.train_dataloader.dataset.pipeline == cfg.train_pipeline
    assert not {'recipe', 'data', '_delete_'} & {*cfg, *cfg.model}
    cfg.dump(tmp_path / 'dumped.py')
    assert load_config(tmp_path / 'dumped.py').to_dict() == cfg.to_dict()
    other = folder / 'other.py'
    other.write_text("_base_ = 'mine.py'\nwork_dir = 'w'\n", encoding='utf-8')
    assert load_config(other).codec.input_size == (240, 320)
    assert Path(load_config(other).filename) == other


def test_lengths_of_schedules_stay_lengths(base):
    cosine = dict(type='CosineAnnealingLR', begin=10, end=110, T_max=100)
    steps = dict(type='StepLR', begin=10, end=110, step_size=20)
    counted = dict(type='LinearLR', by_epoch=False, begin=0, end=500)
    schedule = dict(param_scheduler=[cosine, steps, counted])
    cosine, steps, linear = change(base, schedule, epochs(20)).param_scheduler
    assert (cosine.begin, cosine.end, cosine.T_max) == (10, 20, 10)
    assert (steps.begin, steps.end, steps.step_size) == (10, 20, 2)
    assert linear == counted
    alone = dict(param_scheduler=dict(counted, _delete_=True))
    one = change(base, alone, epochs(20)).param_scheduler
    assert one == [counted]


def test_what_is_left_out_is_as_usual(base):
    assert change(base, two_phases()).to_dict() == Config(base).to_dict()
    cfg = change(base, resized(384, 288))
    assert isinstance(cfg.codec.sigma, int)
    assert change(base, on_data(**OWN)).data_root == '/own'
    folders = dict(train='a/', val='b/', test='c/')
    cfg = change(base, on_data(**OWN | dict(images=folders)))
    assert cfg.test_dataloader.dataset.data_prefix.img == 'c/'
    small = dict(val_dataloader=dict(batch_size=3))
    assert change(base, small, streamed()).val_dataloader.batch_size == 3
    no_weights = dict(model=dict(backbone=dict(_delete_=True, arch='sapiens_1b')))
    assert 'init_cfg' not in change(base, no_weights, sapiens('2b')).model.backbone
    address = dict(type='Pretrained', checkpoint='https://host/all/a/b.pt2')
    cfg = change(base, dict(model=dict(backbone=dict(init_cfg=address))), sapiens('2b'))
    checkpoint = f'https://host/all/sapiens_2b/{PRETRAINED["sapiens_2b"]}'
    assert cfg.model.backbone.init_cfg.checkpoint == checkpoint
