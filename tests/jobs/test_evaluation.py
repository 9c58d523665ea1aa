"""How a job is judged, and what of it does not go together."""

import json

import pytest
from disagreeing import several, told

from sapiens_plugin.errors import InputError
from sapiens_plugin.jobs.evaluation import best_rule


@pytest.mark.parametrize('split', ['val', 'test'])
@pytest.mark.parametrize('kind', ['CombinedDataset', 'ConcatDataset'])
def test_one_metric_for_several_files_is_told(cfg, split, kind):
    found = told(several(cfg, split, kind=kind), split)
    assert 'reads 2: a.json, b.json' in found and 'MultiDatasetEvaluator' in found
    root = cfg[f'{split}_dataloader'].dataset.datasets[0].data_root
    cfg[f'{split}_evaluator'].ann_file = f'{root}/./a.json'
    assert 'MultiDatasetEvaluator' in told(cfg, split)
    cfg[f'{split}_evaluator'] = [dict(type='EPE'), dict(type='CocoMetric')]
    assert 'MultiDatasetEvaluator' in told(cfg, split)


def test_one_metric_that_has_all_of_them_is_not(cfg):
    several(cfg).val_evaluator.ann_file = 'both.json'
    assert told(cfg, 'val') == ''
    cfg.val_evaluator = dict(type='EPE')
    assert told(cfg, 'val') == ''


def test_a_metric_with_the_file_of_other_images_is_told(cfg, tmp_path):
    def write(name, images):
        images = [dict(id=i, file_name=f'a/{image}') for i, image in images.items()]
        text = json.dumps(dict(images=images, annotations=[]))
        (tmp_path / name).write_text(text, encoding='utf-8')
        return str(tmp_path / name)

    read = write('read.json', {1: 'one.jpg', 2: 'two.jpg'})
    cfg.val_dataloader.dataset.update(data_root='', ann_file=read)

    def judged_by(name, images):
        cfg.val_evaluator.ann_file = write(name, images)
        return told(cfg, 'val')

    assert judged_by('read.json', {1: 'one.jpg'}) == ''
    same = {1: 'one.jpg', 2: 'two.jpg', 3: 'three.jpg'}
    write('read.json', {1: 'one.jpg', 2: 'two.jpg'})
    assert judged_by('more.json', same) == ''
    assert 'image 2 is two.jpg, not there.' in judged_by('b.json', {1: 'one.jpg'})
    other = judged_by('c.json', {1: 'two.jpg', 2: 'one.jpg'})
    assert 'image 1 is one.jpg, not two.jpg. Leave ann_file out' in other
    cfg.val_evaluator.ann_file = str(tmp_path / 'no.json')
    assert told(cfg, 'val') == ''  # the metric tells


def test_one_file_twice_is_one(cfg):
    assert told(several(cfg, files=('a.json', 'a.json')), 'val') == ''


def test_the_snippet_has_the_metainfo_of_each_part(cfg):
    parts = several(cfg).val_dataloader.dataset.datasets
    parts[0].metainfo = dict(from_file='configs/_base_/datasets/aic.py')
    snippet = told(cfg, 'val').partition('part_2 = ')
    assert 'aic.py' in snippet[0] and 'coco.py' not in snippet[0]
    assert 'coco.py' in snippet[2] and 'aic.py' not in snippet[2]


def test_the_snippet_is_python_that_agrees(cfg):
    found = told(several(cfg), 'val')
    snippet = found[found.index('    part_1') :]
    snippet = '\n'.join(line[4:] for line in snippet.splitlines())
    given = dict(cfg.val_dataloader.dataset.datasets[0])
    for name in ('ann_file', 'metainfo', 'test_mode'):
        given.pop(name, None)
    names = {'given': given}
    exec(snippet.replace('...', '**given'), names)
    written = {key: names[key] for key in ('val_evaluator', 'val_dataloader')}
    cfg.merge_from_dict(written | dict(default_hooks=names['default_hooks']))
    assert cfg.default_hooks.checkpoint.save_best == 'part_1/AP'
    assert told(cfg, 'train', 'val') == ''
    cfg.default_hooks.checkpoint.save_best = 'coco/AP'
    assert "'coco/AP' is no score" in told(cfg, 'train', 'val')


@pytest.mark.parametrize(
    ('evaluator', 'best', 'text'),
    [
        (dict(type='CocoMetric', prefix='mine'), 'coco/AP', "have 'mine/' before"),
        (dict(type='EPE'), 'coco/AP', 'have no prefix before'),
        (dict(type='CocoWholeBodyMetric'), 'coco/AP', "'coco-wholebody/' before"),
        (
            [dict(type='EPE'), dict(type='NME', prefix='x', norm_mode='')],
            'y/NME',
            "no prefix or 'x/'",
        ),
        (dict(type='EPE'), ['EPE', 'coco/AP'], "'coco/AP' is no"),
    ],
)
def test_the_best_by_a_score_that_there_is_not(cfg, evaluator, best, text):
    cfg.val_evaluator = evaluator
    cfg.default_hooks.checkpoint.save_best = best
    found = told(cfg, 'train')
    assert 'is no score of val_evaluator' in found and text in found


def test_the_worst_is_not_kept_as_the_best(cfg):
    cfg.val_evaluator = dict(type='EPE')
    cfg.default_hooks.checkpoint.save_best = 'EPE'
    assert told(cfg, 'train') == ''  # by the name
    cfg.default_hooks.checkpoint.rule = 'greater'
    assert 'would keep the worst' in told(cfg, 'train')


def test_stopping_early_is_looked_at_alike(cfg):
    def stopping(**settings):
        cfg.custom_hooks = [dict(type='EarlyStoppingHook', **settings)]
        return told(cfg, 'train')

    assert 'EarlyStoppingHook' in stopping(monitor='AP')
    assert 'keep the worst' in stopping(monitor='coco/AP', rule='less')
    cfg.model.type = 'TopdownPoseEstimator'
    assert stopping(monitor='coco/AP') == ''


def test_no_best_and_any_best(cfg):
    cfg.val_evaluator = dict(type='EPE')
    for best in (None, 'auto'):
        cfg.default_hooks.checkpoint.save_best = best
        assert told(cfg, 'train') == ''


FALLING = ['EPE', 'NME', 'MPJPE', 'P-MPJPE', 'MPJPE_all', 'val/loss_kpt', 'mine/EPE']
RISING = ['coco/AP', 'coco/AP .5', 'coco/AR', 'PCK', 'PCKh@0.1', 'AUC', 'acc_pose']


@pytest.mark.parametrize('key', FALLING + RISING)
def test_the_rule_follows_from_the_name(key):
    right, wrong = ('less', 'greater') if key in FALLING else ('greater', 'less')
    assert best_rule(key, None) == best_rule(key, right) == right
    with pytest.raises(InputError, match='keep the worst'):
        best_rule(key, wrong)


def test_a_name_that_tells_nothing_needs_a_rule():
    with pytest.raises(InputError, match=r"Say rule='greater' or rule='less'"):
        best_rule('mine/score', None)
    assert best_rule('mine/score', 'less') == 'less'
    assert best_rule('gap', 'less') == 'less'  # no AP
