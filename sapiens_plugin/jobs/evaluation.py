"""How a job is judged: its metrics, the annotations they read, and what is best."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from mmengine.config import Config
from mmpose.registry import METRICS

from sapiens_plugin.core.utils.json_stream import read_lists
from sapiens_plugin.errors import InputError
from sapiens_plugin.workbench.job.reader import (
    checkpoint_hook,
    hooks_of,
    is_named,
)

# Of scores: those of MMPose's metrics, and what is always called so.
_FALLING = re.compile(r'[Ll]oss|[Ee]rror|\b(EPE|NME|MPJPE\w*|MRRPE|R?MSE)\b')
_RISING = re.compile(
    r'\bacc(uracy)?(?![a-z])|\b(m?AP|AR|t?PCKh?|AUC|m?IoU|precision|recall)\b'
)
# Those that compare with one COCO file.
_COCO_METRICS = ('CocoMetric', 'CocoWholeBodyMetric', 'PoseTrack18Metric')
_COCO_METAINFO = 'configs/_base_/datasets/coco.py'


def best_rule(key: str, rule: str | None) -> str:
    """Return whether a higher score is ``'greater'`` or ``'less'`` good.

    Args:
        key: The score, such as ``'coco/AP'`` or ``'EPE'``.
        rule: What is said of it; None derives it from the name.

    Raises:
        InputError: The name says otherwise, or nothing.
    """
    name = key.rpartition('/')[2]
    known = (
        'less' if _FALLING.search(name) else 'greater' if _RISING.search(name) else None
    )
    if rule is None and known is None:
        raise InputError(
            f'The name of the score {key!r} does not tell whether more of it is '
            "better. Say rule='greater' or rule='less' beside it."
        )
    if rule is not None and known not in (None, rule):
        better = 'lower' if known == 'less' else 'higher'
        raise InputError(
            f'rule={rule!r} would keep the worst as the best: a {better} {key} is '
            'better. Set rule=None.'
        )
    return rule or known


def metrics_of(cfg: Config, split: str) -> list[Mapping]:
    """Return the configs of a split's metrics."""
    evaluator = cfg.get(f'{split}_evaluator') or []
    if isinstance(evaluator, Mapping):
        evaluator = evaluator.get('metrics', evaluator)
    return [evaluator] if isinstance(evaluator, Mapping) else list(evaluator)


def evaluator_disagreements(
    cfg: Config, split: str, parts: Sequence[tuple[Mapping, list]]
) -> Iterator[str]:
    """Compare the metrics of a split with the data sets that are predicted on.

    Args:
        cfg: A config.
        split: ``'val'`` or ``'test'``.
        parts: The split's data sets, as ``read_parts`` yields them.
    """
    evaluator = cfg.get(f'{split}_evaluator')
    if isinstance(evaluator, Mapping) and is_named(
        evaluator.get('type', ''), 'MultiDatasetEvaluator'
    ):
        return
    files = {
        os.path.normpath(Path(part.get('data_root') or '', part['ann_file'])): part
        for part, _ in parts
        if part.get('ann_file')
    }
    for metric in metrics_of(cfg, split):
        if not is_coco(metric):
            continue
        for part, _ in parts:
            if not (part.get('test_mode') or metric.get('ann_file')):
                yield (
                    f'{metric["type"]} of {split}_evaluator finds the annotations of '
                    f'{part.get("ann_file") or part["type"]} only with test_mode=True '
                    'in that data set itself. Set it.'
                )
        own = metric.get('ann_file') and os.path.normpath(metric['ann_file'])
        if len(files) > 1 and own in (None, *files):
            yield _several(split, metric['type'], list(files.values()))
        elif own and own not in files:
            yield from _other_images(own, files, split)


def is_coco(metric: Mapping) -> bool:
    """Tell whether a metric compares with one COCO file."""
    return any(is_named(metric['type'], name) for name in _COCO_METRICS)


def _other_images(own: str, files: Iterable[str], split: str) -> Iterator[str]:
    """Compare the images of a metric's own file with those that are predicted on."""
    try:
        judged = _images(own)
        for file in files:
            for number, name in _images(file).items():
                if judged.get(number) != name:
                    yield (
                        f'{split}_evaluator compares with {own}, and '
                        f'{split}_dataloader reads {file}, whose image {number} is '
                        f'{name}, not {judged.get(number, "there")}. Leave ann_file '
                        'out of the metric: it takes that of its data set.'
                    )
                    break
    except InputError:
        return  # reported where the annotations are loaded


def _images(path: str) -> dict[Any, str]:
    return {
        entry.get('id'): PurePath(str(entry.get('file_name'))).name
        for _, _, entry in read_lists(path, 'images')
    }


def _several(split: str, metric: str, parts: Sequence[Mapping]) -> str:
    files = [part['ann_file'] for part in parts]
    names = [f'part_{number}' for number in range(1, len(parts) + 1)]
    listed = ', '.join(names)
    metrics = ', '.join(f"dict(type='{metric}', prefix='{name}')" for name in names)
    text = (
        f'{metric} of {split}_evaluator compares with one annotation file, and '
        f'{split}_dataloader reads {len(files)}: {", ".join(files)}. Its numbers would '
        'be wrong. Judge each by itself, with a name of its own in its metainfo:\n\n'
    )
    for name, part in zip(names, parts, strict=True):
        metainfo = (part.get('metainfo') or {}).get('from_file', _COCO_METAINFO)
        text += (
            f"    {name} = dict(..., ann_file='{part['ann_file']}', test_mode=True,\n"
            f"        metainfo=dict(from_file='{metainfo}', dataset_name='{name}'))\n"
        )
    return text + (
        f'    {split}_dataloader = dict(dataset=dict(datasets=[{listed}]))\n'
        f"    {split}_evaluator = dict(_delete_=True, type='MultiDatasetEvaluator',\n"
        f'        metrics=[{metrics}],\n'
        f'        datasets=[{listed}])\n'
        f"    default_hooks = dict(checkpoint=dict(save_best='{names[0]}/AP'))\n"
    )


def best_disagreements(cfg: Config) -> Iterator[str]:
    """Compare what chooses by a score with the scores that there will be."""
    metrics = metrics_of(cfg, 'val')
    if not metrics:
        return
    prefixes = [
        m.get('prefix') or getattr(METRICS.get(m['type']), 'default_prefix', None)
        for m in metrics
    ]
    hook = checkpoint_hook(cfg)
    chosen = [('default_hooks.checkpoint.save_best', hook.get('save_best'), hook)]
    chosen += [
        (f'monitor of EarlyStoppingHook in {place}', each.get('monitor'), each)
        for place, each in hooks_of(cfg).items()
        if is_named(str(each.get('type')), 'EarlyStoppingHook')
    ]
    for place, keys, settings in chosen:
        keys = [keys] if isinstance(keys, str) else list(keys or ())
        rules = settings.get('rule')
        rules = list(rules) if isinstance(rules, list | tuple) else [rules] * len(keys)
        for key, rule in zip(keys, rules, strict=False):
            if key == 'auto':
                continue
            prefix, slash, _ = key.rpartition('/')
            if (prefix if slash else None) not in prefixes:
                told = ' or '.join(f"'{p}/'" if p else 'no prefix' for p in prefixes)
                yield (
                    f'{place}={key!r} is no score of val_evaluator, whose scores have '
                    f'{told} before their names. Take one of those, or None.'
                )
            try:
                best_rule(key, rule)
            except InputError as error:
                yield f'{place}: {error}'
