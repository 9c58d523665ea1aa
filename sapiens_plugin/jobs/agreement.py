"""Parts of a config that have to agree: sizes, channels, keypoints."""

import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpose.datasets.datasets.base import BaseCocoStyleDataset
from mmpose.registry import DATASETS, MODELS

import sapiens_plugin.registry  # noqa: F401  (makes the names known)
from sapiens_plugin.core.vit.architectures import PATCH_SIZE, get_architecture
from sapiens_plugin.core.weight_files.checkpoint import open_weights
from sapiens_plugin.errors import InputError
from sapiens_plugin.workbench.job.reader import (
    find_hook,
    hook_faults,
    is_named,
    is_streamed,
    read_head,
    read_parts,
)

from .evaluation import (
    best_disagreements,
    evaluator_disagreements,
    is_coco,
    metrics_of,
)

_HEATMAP_HEADS = ('SapiensHeatmapHead', 'HeatmapHead')


def check_agreement(cfg: Config, *splits: str) -> None:
    """Check a job before it starts.

    Args:
        cfg: Its config.
        splits: What it reads: ``'train'``, ``'val'``, ``'test'``.

    Raises:
        InputError: Parts of the config disagree; all of them are named.
    """
    if found := list(disagreements(cfg, *splits)):
        raise InputError('\n- '.join(['These settings do not go together:', *found]))


def disagreements(cfg: Config, *splits: str) -> Iterator[str]:
    """Yield a sentence or more for each pair of settings that disagree.

    Training would end at them with an error of PyTorch's, or go on with wrong numbers.

    Args:
        cfg: A config.
        splits: As in :func:`check_agreement`.
    """
    init_default_scope('mmpose')
    yield from _model(cfg.model)
    yield from hook_faults(cfg)
    if 'train' in splits and is_streamed(cfg.model):
        yield from _streaming(cfg)
    orders: dict[tuple[str, ...], str] = {}  # of keypoints that are not converted
    for split in splits:
        dataset = (cfg.get(f'{split}_dataloader') or {}).get('dataset')
        if not dataset:
            continue
        parts = list(read_parts(dataset))
        for part, pipeline in parts:
            place = f'{split}_dataloader ({part.get("ann_file") or part.get("type")})'
            yield from _pipeline(cfg.model, pipeline, place)
            yield from _keypoints(cfg, split, part, pipeline, place, orders)
        if 'datasets' in dataset and 'metainfo' in dataset:
            place = f'{split}_dataloader.dataset (metainfo)'
            yield from _keypoints(cfg, split, dataset, [], place, orders)
        if split != 'train':
            yield from evaluator_disagreements(cfg, split, parts)
    yield from _orders(orders)
    if 'train' in splits:
        yield from best_disagreements(cfg)
        yield from _head_of_checkpoint(cfg)


# --- The model ----------------------------------------------------------------------


def _model(model: Mapping) -> Iterator[str]:
    backbone, head = model.get('backbone') or {}, model.get('head') or {}
    decoder = _codec(head.get('decoder'))
    if not is_named(backbone.get('type', ''), 'SapiensBackbone'):
        return
    match backbone.get('img_size'):
        case [int(height), int(width)] | (int(height), int(width)):
            pass
        case other:
            yield f'model.backbone.img_size={other!r} is not (height, width) in px.'
            return
    yield from _differ(
        'model.head.decoder.input_size (width, height)',
        decoder.get('input_size'),
        'model.backbone.img_size (height, width)',
        (width, height),
        'resized(height, width) of sapiens_plugin.recipe changes all of them.',
    )
    if model.get('neck'):
        return
    yield from _differ(
        'model.head.in_channels',
        head.get('in_channels'),
        f'the width of {reprlib.repr(backbone["arch"])}',
        get_architecture(backbone['arch']).embed_dims,
    )
    if not any(is_named(head.get('type', ''), name) for name in _HEATMAP_HEADS):
        return
    grow = 2 ** len(read_head(head).deconv_channels)
    made = tuple(side // PATCH_SIZE * grow for side in (width, height))
    yield from _differ(
        'model.head.decoder.heatmap_size (width, height)',
        decoder.get('heatmap_size'),
        'the size of the heatmaps that model.head makes of such images',
        made,
    )


def _streaming(cfg: Config) -> Iterator[str]:
    """Look for what a streamed model trains with."""
    wrapper = cfg.get('optim_wrapper') or {}
    optimizer = (wrapper.get('optimizer') or {}).get('type', '')
    hook = find_hook(cfg, 'StreamingHook') or {}
    for name, place, found in (
        ('StreamedOptimWrapper', 'optim_wrapper.type', wrapper.get('type')),
        ('HostAdamW', 'optim_wrapper.optimizer.type', optimizer),
        ('StreamingHook', 'default_hooks.streaming', hook.get('type')),
    ):
        if not is_named(found or '', name):
            yield (
                f'A model of type {cfg.model.type} needs sapiens_plugin.{name} in '
                f'{place}, which has {found or "nothing"}. `streamed()` of '
                'sapiens_plugin.recipe sets all that streaming needs.'
            )


def _head_of_checkpoint(cfg: Config) -> Iterator[str]:
    """Compare the head with that of the checkpoint the whole model starts from."""
    path, head = cfg.get('load_from'), cfg.model.get('head')
    if cfg.get('resume') or not path or not head or not Path(path).is_file():
        return
    with torch.device('meta'):
        state = MODELS.build(head).state_dict()
    own = {f'head.{name}': tuple(value.shape) for name, value in state.items()}
    try:
        found = {
            name.removeprefix('module.'): tuple(value.shape)
            for name, value in open_weights(path).items()
        }
    except InputError:
        return  # reported where the weights are loaded
    for name, shape in own.items():
        if found.get(name) != shape:
            told = found.get(name, 'absent')
            yield (
                f'{name} is {told} in load_from={path}, and {shape} in the model. To '
                'take over the backbone alone, name the file in '
                'model.backbone.init_cfg.checkpoint.'
            )
            return


def _pipeline(model: Mapping, pipeline: Sequence[Mapping], place: str) -> Iterator[str]:
    decoder = _codec((model.get('head') or {}).get('decoder'))
    if not decoder:
        return
    for step in pipeline:
        kind = step['type']
        if is_named(kind, 'TopdownAffine'):
            yield from _differ(
                f'input_size of TopdownAffine in {place}',
                step.get('input_size'),
                'model.head.decoder.input_size',
                decoder.get('input_size'),
            )
            is_udp = decoder['type'].startswith('UDP')
            if (
                is_named(model.backbone.type, 'SapiensBackbone')
                and 'Heatmap' in decoder['type']
                and step.get('use_udp', False) != is_udp
            ):
                yield (
                    f'TopdownAffine in {place} has use_udp={not is_udp}, and the codec '
                    f'is {decoder["type"]}: every keypoint would be off by a part of a '
                    f'pixel. Set use_udp={is_udp}.'
                )
        elif is_named(kind, 'GenerateTarget'):
            encoder = _codec(step.get('encoder'))
            for key in sorted(encoder.keys() & decoder.keys()):
                yield from _differ(
                    f'{key} of the encoder in {place}',
                    encoder[key],
                    f'model.head.decoder.{key}',
                    decoder[key],
                )


def _codec(codec: Any) -> Mapping:
    return codec if isinstance(codec, Mapping) else {}


# --- Keypoints ----------------------------------------------------------------------


def _keypoints(
    cfg: Config,
    split: str,
    part: Mapping,
    pipeline: Sequence[Mapping],
    place: str,
    orders: dict[tuple[str, ...], str],
) -> Iterator[str]:
    out = (cfg.model.get('head') or {}).get('out_channels')
    try:
        meta = _metainfo_of(part)
    except OSError as error:
        yield f'The metainfo of {place} cannot be read: {error}'
        return
    except (AssertionError, KeyError, TypeError) as error:
        yield (
            f'The metainfo of {place} is not right: {type(error).__name__}: {error}. '
            'It needs dataset_name, keypoint_info, skeleton_info, joint_weights and '
            'sigmas, and each swap of a keypoint names another keypoint.'
        )
        return
    if not meta or not isinstance(out, int):
        return
    metrics = metrics_of(cfg, split) if split != 'train' else []
    yield from _metainfo(meta, part, pipeline, metrics, place)
    count = meta['num_keypoints']
    converters = [
        step for step in pipeline if is_named(step['type'], 'KeypointConverter')
    ]
    if converters:
        count = converters[-1]['num_keypoints']
    elif any('pred_converter' in metric for metric in metrics):
        if split == 'test' and count != out and cfg.model.test_cfg.get('flip_test'):
            yield (
                f'model.test_cfg.flip_test asks for left and right of {out} keypoints, '
                f'and {place} has {count}. Convert them in its pipeline '
                '(KeypointConverter), or test with --cfg-options '
                'model.test_cfg.flip_test=False.'
            )
        return
    else:
        orders.setdefault(tuple(meta['keypoint_id2name'].values()), place)
    decoder = _codec(cfg.model.head.get('decoder'))
    if not re.search('Heatmap|SimCC', decoder.get('type', '')):
        return  # channels may be coordinates
    if split != 'train' and 'output_keypoint_indices' in (cfg.model.test_cfg or ()):
        return
    if decoder.get('heatmap_type') == 'combined':  # and two offsets for each
        count *= 3
    yield from _differ(
        'model.head.out_channels',
        out,
        f'the number of keypoints of {place}',
        count,
        ''
        if 'metainfo' in part
        else f'(That of {part["type"]}; data of its own keypoints '
        'needs a metainfo: on_data(keypoints=…).)',
    )


def _metainfo(
    meta: Mapping,
    part: Mapping,
    pipeline: Sequence[Mapping],
    metrics: Sequence[Mapping],
    place: str,
) -> Iterator[str]:
    """Compare the parts of a metainfo that the job uses."""
    is_own = _is_own(part.get('metainfo'))
    weights_count = is_own or any(
        step.get('use_dataset_keypoint_weights') for step in pipeline
    )
    for name, key, counts in (
        ('joint_weights', 'dataset_keypoint_weights', weights_count),
        ('sigmas', 'sigmas', any(is_coco(metric) for metric in metrics)),
    ):
        if counts:
            yield from _differ(
                f'the number of {name} in the metainfo of {place}',
                len(meta[key]),
                'that of its keypoints',
                meta['num_keypoints'],
            )
    partner = meta['flip_indices']
    for number, other in enumerate(partner):
        if is_own and partner[other] != number:
            names = meta['keypoint_id2name']
            yield (
                f'In the metainfo of {place}, {names[number]} has swap='
                f'{names[other]!r}, and {names[other]} does not have swap='
                f'{names[number]!r}: a flip would mix them up.'
            )


def _is_own(metainfo: Mapping | None) -> bool:
    """Tell whether a metainfo is the user's, not one that comes with MMPose."""
    return bool(metainfo) and (
        'from_file' not in metainfo or Path(metainfo['from_file']).is_file()
    )


def _orders(orders: Mapping[tuple[str, ...], str]) -> Iterator[str]:
    """Compare the names of keypoints of all data sets, taken in one order by all."""
    (first, place), *others = orders.items() or [((), '')]
    for names, other in others:
        if len(names) != len(first):
            continue  # told as a number
        index = next(i for i, name in enumerate(names) if name != first[i])
        yield (
            f'Keypoint {index} is {first[index]} in {place}, and {names[index]} in '
            f'{other}: the model would learn one and be judged by the other. Bring one '
            "of them into the other's order with KeypointConverter, or mend its "
            'metainfo.'
        )


def _metainfo_of(part: Mapping) -> dict:
    """Read what a data set's config says of its keypoints; empty if nothing."""
    kind = DATASETS.get(part['type'])
    if 'datasets' in part:  # a wrapper's own, which it reads as they do
        kind = BaseCocoStyleDataset
    load = getattr(kind, '_load_metainfo', None)
    if load is None or not (part.get('metainfo') or getattr(kind, 'METAINFO', None)):
        return {}
    meta = load(part.get('metainfo'))
    return meta if 'num_keypoints' in meta else {}


def _differ(
    one: str, value: Any, other: str, expected: Any, hint: str = ''
) -> Iterator[str]:
    if value is None or expected is None:
        return
    if isinstance(value, list | tuple):
        value, expected = tuple(value), tuple(expected)
    if value != expected:
        yield f'{one} is {value}, and {other} is {expected}. {hint}'.strip()
