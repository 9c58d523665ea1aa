"""Configs whose parts disagree, and what is told of them."""

import copy

from sapiens_plugin.jobs.agreement import disagreements


def changed(cfg, changes):
    cfg = copy.deepcopy(cfg)
    cfg.merge_from_dict(changes)
    return cfg


def told(cfg, *splits):
    return ' '.join(disagreements(cfg, *(splits or ('train', 'val', 'test'))))


def several(cfg, split='val', *, files=('a.json', 'b.json'), kind='CombinedDataset'):
    dataset = cfg[f'{split}_dataloader'].dataset
    steps = dataset.pop('pipeline')
    cfg[f'{split}_dataloader'].dataset = dict(
        type=kind,
        datasets=[dict(dataset, ann_file=file) for file in files],
        pipeline=steps,
    )
    return cfg
