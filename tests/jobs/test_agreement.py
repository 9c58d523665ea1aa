"""Parts of a config that have to agree."""

import re
from pathlib import Path

import mmpose
import pytest
from disagreeing import changed, several, told
from mmengine.config import Config

from sapiens_plugin.errors import InputError
from sapiens_plugin.jobs.agreement import check_agreement
from sapiens_plugin.jobs.schedule import schedule_notes

COCO = 'configs/_base_/datasets/coco.py'


def pipeline_step(cfg, split, kind):
    steps = cfg[f'{split}_dataloader'].dataset.pipeline
    return next(step for step in steps if step.type == kind)


def test_the_shipped_configs_agree(repo_configs):
    for path in sorted(repo_configs.glob('*.py')):
        assert told(Config.fromfile(path)) == '', path.name


MMPOSE = [
    path
    for path in sorted(Path(mmpose.__file__).parent.glob('.mim/configs/*/**/*.py'))
    if '_base_' not in path.parts and 'edpose' not in path.name  # which cannot be read
]


def check_silence(paths, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # where no configs/_base_ lies
    for path in paths:
        cfg = Config.fromfile(path)
        assert told(cfg) == '', path
        if 'dwpose' not in path.name:  # some end long before their schedules
            assert schedule_notes(cfg, 1000) == [], path


def test_some_configs_of_mmpose_agree(monkeypatch, tmp_path):
    check_silence(MMPOSE[::25], monkeypatch, tmp_path)


@pytest.mark.slow
def test_all_configs_of_mmpose_agree(monkeypatch, tmp_path):
    assert len(MMPOSE) > 400
    check_silence(MMPOSE, monkeypatch, tmp_path)


MODEL = {
    'img_size alone': ({'model.backbone.img_size': (320, 240)}, '(288, 384)', '240'),
    'img_size no pair': ({'model.backbone.img_size': 384}, '384 is not', 'height'),
    'one keypoint': ({'model.head.out_channels': 1}, 'is 1,', 'is 17.'),
    'keypoints': ({'model.head.out_channels': 133}, 'is 133,', 'is 17.'),
    'channels': ({'model.head.in_channels': 1024}, 'is 1024,', 'is 1536.'),
    'arch': ({'model.backbone.arch': 'sapiens_0.3b'}, 'is 1536,', 'is 1024.'),
    'heatmap': (
        {
            'model.head.deconv_out_channels': (768,),
            'model.head.deconv_kernel_sizes': (4,),
        },
        'is (72, 96),',
        'is (36, 48).',
    ),
    'codec of the head': (
        {'model.head.decoder.input_size': (192, 256)},
        'is (192, 256),',
        'is (288, 384).',
    ),
    'kind of codec': (
        {'model.head.decoder.type': 'MSRAHeatmap'},
        'type of the encoder',
        'MSRAHeatmap',
    ),
    'sigma': ({'model.head.decoder.sigma': 2}, 'is 3,', 'is 2.'),
}


@pytest.mark.parametrize('case', MODEL)
def test_a_setting_changed_alone_is_told_with_both_values(cfg, case):
    changes, *texts = MODEL[case]
    found = told(changed(cfg, changes))
    assert all(text in found for text in texts), found
    with pytest.raises(InputError, match='do not go together'):
        check_agreement(changed(cfg, changes), 'train')


@pytest.mark.parametrize('split', ['train', 'val', 'test'])
def test_each_pipeline_is_compared(cfg, split):
    pipeline_step(cfg, split, 'TopdownAffine').input_size = (192, 256)
    assert 'is (192, 256), and model.head.decoder' in told(cfg, split)
    others = {'train', 'val', 'test'} - {split}
    if split == 'train':  # val and test share their steps
        assert told(cfg, *others) == ''


@pytest.mark.parametrize('use_udp', [False, None])
def test_crop_and_codec_count_pixels_alike(cfg, use_udp):
    step = pipeline_step(cfg, 'val', 'TopdownAffine')
    step.pop('use_udp')
    if use_udp is not None:
        step.use_udp = use_udp
    assert 'Set use_udp=True' in told(cfg, 'val')
    cfg.model.head.decoder.type = 'MSRAHeatmap'
    assert 'use_udp' not in told(cfg, 'val')


def test_the_encoder_is_compared_in_all_that_both_name(cfg):
    encoder = dict(cfg.model.head.decoder, heatmap_size=(36, 48))
    pipeline_step(cfg, 'train', 'GenerateTarget').encoder = encoder
    assert 'heatmap_size of the encoder' in told(cfg, 'train')


@pytest.mark.parametrize(
    ('changes', 'text'),
    [
        ({'optim_wrapper.type': 'OptimWrapper'}, r'StreamedOptimWrapper in optim_wr'),
        ({'optim_wrapper.optimizer.type': 'AdamW'}, r'HostAdamW in .*has AdamW'),
        ({'default_hooks.streaming': None}, r'StreamingHook in default_hooks\.strea'),
    ],
)
def test_a_streamed_model_needs_its_parts(cfg, changes, text):
    assert re.search(text, told(changed(cfg, changes), 'train'))
    assert told(changed(cfg, changes), 'test') == ''


def test_hooks_that_are_none_or_there_twice(cfg):
    text = told(changed(cfg, {'default_hooks.phase_swich.warmup_epochs': 3}), 'test')
    assert text.startswith('default_hooks.phase_swich has no type, and the base has no')
    assert 'default_hooks.phase_switch' in text
    cfg.custom_hooks = [dict(type='sapiens_plugin.PhaseSwitchHook')]
    text = told(cfg, 'test')
    assert 'in default_hooks.phase_switch and in custom_hooks[0], and would act' in text


def test_offsets_beside_heatmaps_are_channels_too(cfg):
    cfg.model.head.update(out_channels=51)
    assert 'is 51, and' in told(cfg, 'val')
    cfg.model.head.decoder.heatmap_type = 'combined'
    assert told(cfg, 'val') == ''


# --- Keypoints ----------------------------------------------------------------------


def metainfo(count, *, weights=None, sigmas=None, swaps=None):
    names = [f'point_{i}' for i in range(count)]
    swaps = swaps or {}
    return dict(
        dataset_name='own',
        keypoint_info={
            i: dict(id=i, name=name, swap=swaps.get(i, ''))
            for i, name in enumerate(names)
        },
        skeleton_info={0: dict(link=(names[0], names[1]), id=0)},
        joint_weights=[1.0] * (count if weights is None else weights),
        sigmas=[0.05] * (count if sigmas is None else sigmas),
    )


def own(cfg, **options):
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.metainfo = metainfo(6, **options)
    cfg.model.head.out_channels = 6
    return cfg


def test_own_keypoints(cfg):
    assert told(own(cfg, swaps={0: 'point_1', 1: 'point_0'})) == ''


@pytest.mark.parametrize(
    ('options', 'text'),
    [
        (dict(sigmas=17), r'number of sigmas in the metainfo of .* is 17, .* is 6'),
        (dict(weights=5), r'number of joint_weights .* is 5, .* is 6'),
        (dict(swaps={0: 'point_1'}), r"point_0 has swap='point_1'.*flip would mix"),
        (dict(swaps={0: 'nobody'}), r"is not right: KeyError: 'nobody'"),
    ],
)
def test_own_metainfo_that_is_not_whole(cfg, options, text):
    with pytest.raises(InputError, match=text):
        check_agreement(own(cfg, **options), 'train', 'val')


def test_sigmas_are_for_those_who_ask_for_them(cfg):
    own(cfg, sigmas=0)
    assert told(cfg, 'train') == ''
    cfg.val_evaluator = dict(type='EPE')
    assert told(cfg, 'val') == ''


def test_chosen_outputs_are_no_channels(cfg):
    cfg.model.head.out_channels = 19
    cfg.model.test_cfg.output_keypoint_indices = list(range(17))
    assert told(cfg, 'val', 'test') == ''
    assert 'is 19' in told(cfg, 'train')


def test_channels_that_are_no_keypoints_are_left_alone(cfg):
    cfg.model.head.update(decoder=dict(type='MotionBERTLabel'), out_channels=3)
    for split in ('train', 'val'):
        cfg[f'{split}_dataloader'].dataset.pipeline = []
    assert told(cfg, 'train', 'val') == ''


def test_a_metric_finds_the_truth_of_data_sets_for_tests(cfg):
    del cfg.val_dataloader.dataset['test_mode']
    assert 'only with test_mode=True in that data set' in told(cfg, 'val')
    cfg.val_evaluator = dict(type='EPE')
    assert told(cfg, 'val') == ''


def test_a_file_of_metainfo_that_is_missing(cfg):
    cfg.train_dataloader.dataset.metainfo = dict(from_file='no/such.py')
    assert 'no/such.py" does not exist.' in told(cfg, 'train')


def converter(count):
    mapping = [(i, i) for i in range(count)]
    return dict(type='KeypointConverter', num_keypoints=count, mapping=mapping)


def test_a_converter_makes_the_keypoints_of_the_model(cfg):
    cfg.model.head.out_channels = 13
    assert 'is 13' in told(cfg, 'train')
    for split in ('train', 'val'):
        cfg[f'{split}_dataloader'].dataset.pipeline.insert(1, converter(13))
    assert told(cfg, 'train', 'val') == ''
    cfg.model.head.out_channels = 12
    assert 'is 12' in told(cfg, 'val')


def test_a_metric_may_convert_what_is_predicted(cfg):
    cfg.model.head.out_channels = 133
    assert 'is 133' in told(cfg, 'test')
    cfg.test_evaluator.pred_converter = dict(num_keypoints=17, mapping=[(0, 0)])
    cfg.model.test_cfg.flip_test = False
    assert told(cfg, 'test') == ''


def test_a_flip_test_needs_left_and_right_of_what_is_predicted(cfg):
    cfg.model.head.out_channels = 133
    cfg.test_evaluator.pred_converter = dict(num_keypoints=17, mapping=[(0, 0)])
    assert 'left and right of 133 keypoints' in told(cfg, 'test')


def test_all_data_sets_have_one_order_of_keypoints(cfg):
    def named(*names):
        info = metainfo(len(names))
        for entry, name in zip(info['keypoint_info'].values(), names, strict=True):
            entry['name'] = name
        return info | dict(skeleton_info={})

    own(cfg)
    for split in ('train', 'val'):
        cfg[f'{split}_dataloader'].dataset.metainfo = named(*'abcdef')
    assert told(cfg, 'train', 'val') == ''
    cfg.val_dataloader.dataset.metainfo = named(*'abdcef')
    found = told(cfg, 'train', 'val')
    assert 'Keypoint 2 is c in train_dataloader' in found and 'and d in val' in found
    cfg.val_dataloader.dataset.pipeline.insert(1, converter(6))
    assert told(cfg, 'train', 'val') == ''


def test_the_metainfo_of_a_combination_is_compared(cfg):
    several(cfg, 'train')
    cfg.train_dataloader.dataset.metainfo = metainfo(6)
    found = told(cfg, 'train')
    assert (
        'the number of keypoints of train_dataloader.dataset (metainfo) is 6' in found
    )


def test_data_sets_inside_others_are_compared(cfg):
    dataset = cfg.train_dataloader.dataset
    steps = dataset.pop('pipeline')
    inner = [dict(dataset, pipeline=[]), dict(dataset, pipeline=[converter(13)])]
    cfg.train_dataloader.dataset = dict(
        type='RepeatDataset',
        times=2,
        dataset=dict(
            type='CombinedDataset',
            metainfo=dict(from_file=COCO),
            datasets=inner,
            pipeline=steps,
        ),
    )
    assert told(cfg, 'train').count('is 13') == 1
    cfg.train_dataloader.dataset.dataset.pipeline[5].input_size = (1, 1)
    assert 'is (1, 1)' in told(cfg, 'train')
