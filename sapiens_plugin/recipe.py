"""Wishes that change a config in many places at once: its size, data, schedule.

For text-style configs, which may import plain functions once ``_base_`` is set::

    _base_ = 'sapiens1b_gtx1650.py'
    from sapiens_plugin.recipe import recipe, resized

    globals().update(recipe(_base_, resized(320, 240)))

A wish is a function that changes the config it is given, in place, or a dict that is
merged into it. Each sees what those before it have changed. Imports no MM package.
"""

import runpy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sapiens_plugin.core.vit.architectures import ARCHITECTURES, get_architecture
from sapiens_plugin.core.vit.model import patch_grid
from sapiens_plugin.errors import InputError
from sapiens_plugin.workbench.job.reader import (
    check_hook_name,
    find_hook,
    is_named,
    is_streamed,
)

Wish = Callable[[dict], None] | Mapping

PRETRAINED = {
    'sapiens_0.3b': 'sapiens_0.3b_epoch_1600_torchscript.pt2',
    'sapiens_0.6b': 'sapiens_0.6b_epoch_1600_torchscript.pt2',
    'sapiens_1b': 'sapiens_1b_epoch_173_torchscript.pt2',
    'sapiens_2b': 'sapiens_2b_epoch_660_torchscript.pt2',
}
"""The published pre-training files (docs/weights.md), each in a folder of its size."""

_VALIDATED = 8  # images that the head of a streamed model takes at once, at most
_ADAMW = ('lr', 'betas', 'eps', 'weight_decay')  # what HostAdamW has of AdamW


def recipe(base: Mapping, *wishes: Wish) -> dict:
    """Return what wishes change in a config, for ``globals().update``.

    Args:
        base: The config that is changed, ``_base_`` in a config; left as it is.
        *wishes: Made one after the other. Dicts are merged as MMEngine merges a config
            into its base, ``_delete_=True`` included.

    Returns:
        The top-level entries that have changed, as wholes. An assignment of one of
        them beside the recipe would lose what the recipe has changed in it, so
        ``load_config`` refuses that.

    Raises:
        InputError: A wish does not go with the config.
    """
    before, cfg = _plain(base), _plain(base)
    for wish in wishes:
        if isinstance(wish, Mapping):
            for name, hook in (wish.get('default_hooks') or {}).items():
                if not (isinstance(hook, Mapping) and 'type' in hook):
                    check_hook_name(name, cfg['default_hooks'])
            _merge(wish, cfg, 'recipe')
        elif callable(wish):
            wish(cfg)
        else:
            raise InputError(
                f'recipe(…): {wish!r} is no wish, but one such as resized(320, 240), '
                'or a dict.'
            )
    return {
        key: value | {'_delete_': True}
        if isinstance(value, dict) and key in before
        else value
        for key, value in cfg.items()
        if key not in before or value != before[key]
    }


def sapiens(size: str) -> Wish:
    """Take another Sapiens: ``'0.3b'``, ``'0.6b'``, ``'1b'`` or ``'2b'``.

    Its pre-training file is looked for beside that of the config, in the folder of its
    size. A config without one keeps random weights.
    """
    name = f'sapiens_{size}'
    if name not in ARCHITECTURES:
        sizes = ', '.join(each.removeprefix('sapiens_') for each in ARCHITECTURES)
        raise InputError(f'sapiens({size!r}) is none of the published sizes: {sizes}.')
    arch = ARCHITECTURES[name]

    def change(cfg: dict) -> None:
        backbone, head = cfg['model']['backbone'], cfg['model']['head']
        # As many of the last layers train as before.
        if (frozen := backbone.get('frozen_stages', -1)) > 0:
            trained = get_architecture(backbone['arch']).num_layers - frozen
            backbone['frozen_stages'] = max(arch.num_layers - trained, 0) or -1
        backbone['arch'] = name
        head['in_channels'] = arch.embed_dims
        if init_cfg := backbone.get('init_cfg'):
            folders = init_cfg['checkpoint'].replace('\\', '/').split('/')[:-2]
            init_cfg['checkpoint'] = '/'.join([*folders, name, PRETRAINED[name]])

    return change


def resized(height: int, width: int, *, sigma: float | None = None) -> Wish:
    """Take images of another size: backbone, codec, crops and targets of all splits.

    Args:
        height: Of the input, px; a multiple of 16.
        width: Of the input, px; a multiple of 16.
        sigma: Of the targets, px of the heatmap; None takes ``height / 128``, at most
            6: MMPose's at 256×192 and 384×288, Sapiens' at 1024×768.

    Raises:
        InputError: A side is no multiple of 16.
    """
    patch_grid(height, width)
    usual = min(height / 128 if height % 128 else height // 128, 6)

    def change(cfg: dict) -> None:
        cfg['model']['backbone']['img_size'] = (height, width)
        old = tuple(cfg['model']['head']['decoder']['input_size'])
        # Crops and codecs, wherever they stand, say it as (width, height).
        for found in _mappings(cfg):
            size = found.get('input_size')
            if not isinstance(size, list | tuple) or tuple(size) != old:
                continue
            found['input_size'] = (width, height)
            if 'heatmap_size' in found:
                found['heatmap_size'] = tuple(
                    new * cells // pixels
                    for new, cells, pixels in zip(
                        (width, height), found['heatmap_size'], old, strict=True
                    )
                )
            if isinstance(found.get('sigma'), int | float):
                found['sigma'] = usual if sigma is None else sigma

    return change


def two_phases(
    *,
    warmup_epochs: int = 10,
    max_epochs: int = 110,
    optimizer_steps: int | None = None,
    start_factor: float | None = None,
) -> Wish:
    """Train the head alone, then everything, its rate on a cosine that ends at 0.

    Args:
        warmup_epochs: Of the head alone.
        max_epochs: All epochs.
        optimizer_steps: In which each phase comes to its full rate; None leaves it, or
            takes 500.
        start_factor: The share of the rate that it starts from; None leaves it, or
            takes 1/1000.

    Raises:
        InputError: There is no epoch after the warm-up.
    """
    _check_epochs('two_phases', warmup_epochs, max_epochs)

    def change(cfg: dict) -> None:
        schedulers = _schedulers(cfg)
        warmups = [each for each in schedulers if is_named(each['type'], 'WarmupLR')]
        rise = dict(optimizer_steps=500, start_factor=1e-3)
        given = dict(optimizer_steps=optimizer_steps, start_factor=start_factor)
        for name in rise:
            if given[name] is not None:
                rise[name] = given[name]
            elif warmups:
                rise[name] = warmups[0].get(name, rise[name])
        cfg['param_scheduler'] = [
            *(
                dict(
                    type='sapiens_plugin.WarmupLR',
                    begin=begin,
                    **rise,
                    convert_to_iter_based=True,
                )
                for begin in sorted({0, warmup_epochs})
            ),
            dict(
                type='CosineAnnealingLR',
                begin=warmup_epochs,
                end=max_epochs,
                eta_min=0.0,
                convert_to_iter_based=True,
            ),
        ]
        cfg['train_cfg']['max_epochs'] = max_epochs
        hook = find_hook(cfg, 'PhaseSwitchHook')
        if hook is None:
            hook = dict(type='sapiens_plugin.PhaseSwitchHook', priority='VERY_HIGH')
            cfg['default_hooks']['phase_switch'] = hook
        hook['warmup_epochs'] = warmup_epochs

    return change


def epochs(max_epochs: int, *, warmup_epochs: int | None = None) -> Wish:
    """Stretch or shorten a job: its phases, and all that its schedules name by epoch.

    Args:
        max_epochs: All epochs.
        warmup_epochs: Of the head alone, in a job of two phases; None leaves them.

    Raises:
        InputError: There is no epoch after the warm-up, or no warm-up to change.
    """

    def change(cfg: dict) -> None:
        hook = find_hook(cfg, 'PhaseSwitchHook') or {}
        old_max = cfg['train_cfg'].get('max_epochs')
        if old_max is None:
            raise InputError(
                f'epochs({max_epochs}): the config has no epochs yet. '
                'two_phases(warmup_epochs=…, max_epochs=…) gives it a schedule.'
            )
        old_warmup = hook.get('warmup_epochs', 10) if hook else 0
        warmup = old_warmup if warmup_epochs is None else warmup_epochs
        _check_epochs('epochs', warmup, max_epochs)
        if warmup and not old_warmup:
            raise InputError(
                f'epochs(warmup_epochs={warmup}): this job has one phase. '
                'two_phases(warmup_epochs=…, max_epochs=…) gives it two.'
            )

        def moved(epoch: int) -> int:
            if epoch <= old_warmup:
                return round(epoch * warmup / max(old_warmup, 1))
            share = (epoch - old_warmup) / (old_max - old_warmup)
            return warmup + round(share * (max_epochs - warmup))

        found = []
        for each in _schedulers(cfg):
            if each.get('by_epoch', True):
                begin = each.get('begin', 0)
                for key in ('T_max', 'step_size'):  # lengths, the others are places
                    if isinstance(each.get(key), int):
                        each[key] = moved(begin + each[key]) - moved(begin)
                for key in ('begin', 'end'):
                    if isinstance(each.get(key), int):
                        each[key] = moved(each[key])
                if 'milestones' in each:
                    each['milestones'] = [moved(epoch) for epoch in each['milestones']]
            if each not in found:  # without a warm-up both phases begin at 0
                found.append(each)
        cfg['param_scheduler'] = found
        cfg['train_cfg']['max_epochs'] = max_epochs
        if hook:
            hook['warmup_epochs'] = warmup

    return change


def on_data(
    *,
    root: str,
    train: str,
    val: str,
    images: str | Mapping[str, str],
    test: str | None = None,
    keypoints: str | None = None,
) -> Wish:
    """Train, validate and test on other COCO files, and test on their own boxes.

    Args:
        root: The folder that all is in; from ``{{ fileDirname }}`` on, which is the
            folder of the config, it holds wherever the command is run.
        train: The annotation file to train on, below ``root``.
        val: The one to validate on.
        images: The folder of the images, below ``root``; or one for each of
            ``dict(train=…, val=…, test=…)``.
        test: The annotation file to test on; None tests on that of ``val``.
        keypoints: The file with their ``dataset_info``; None for the keypoints that the
            config has.

    Raises:
        InputError: The file of keypoints cannot be used, or a data set of the config
            is a wrapper of others.
    """
    count = None if keypoints is None else _count_keypoints(keypoints)
    files = dict(train=train, val=val, test=test or val)
    folders = dict.fromkeys(files, images) if isinstance(images, str) else images
    if not {'train', 'val'} <= folders.keys():
        raise InputError(
            f'on_data(images={images!r}) needs a folder of train and of val.'
        )
    folders = dict(test=folders['val']) | dict(folders)

    def change(cfg: dict) -> None:
        cfg['data_root'] = root
        for split, file in files.items():
            if not (loader := cfg.get(f'{split}_dataloader')):
                continue  # a job that does not validate, say
            dataset = loader['dataset']
            if 'ann_file' not in dataset:
                raise InputError(
                    f'on_data(…): {split}_dataloader.dataset is a '
                    f'{dataset.get("type")} of other data sets. Start from a config '
                    'with one, and combine afterwards.'
                )
            dataset.update(
                data_root=root, ann_file=file, data_prefix=dict(img=folders[split])
            )
            if keypoints is not None:
                dataset['metainfo'] = dict(from_file=keypoints)
            if split == 'test':
                dataset['bbox_file'] = None
        if count is not None:
            cfg['model']['head']['out_channels'] = count

    return change


def streamed(
    *,
    micro_batch: int | None = None,
    vram_budget: int | None = None,
    mode: str | None = None,
) -> Wish:
    """Keep the weights in host memory, and stream them through the GPU.

    The data loader then gives the effective batch at once.

    Args:
        micro_batch: Images that pass a block together; None leaves it, or takes 2.
        vram_budget: Of the GPU's memory, MiB; None leaves it, or takes what is free.
        mode: ``'compact'`` or ``'exact'`` (docs/streaming.md); None leaves it, or takes
            ``'compact'``.

    Raises:
        InputError: The optimizer is not AdamW.
    """
    given = dict(micro_batch=micro_batch, vram_budget=vram_budget, mode=mode)
    given = {name: value for name, value in given.items() if value is not None}

    def change(cfg: dict) -> None:
        model = cfg['model']
        if not is_streamed(model):
            _begin_to_stream(cfg)
        model.update(given)

    return change


def training_steps(**changes: Mapping | None) -> Wish:
    """Change or leave out steps of the training pipeline, by the names of their types.

    Args:
        **changes: Such as ``RandomHalfBody=None``, which leaves it out, or
            ``RandomFlip=dict(prob=0.3)``.

    Raises:
        InputError: The pipeline has no such step.
    """

    def change(cfg: dict) -> None:
        pipelines = [cfg.get('train_pipeline') or []]
        for each in _mappings(cfg['train_dataloader']):
            pipelines.append(each.get('pipeline') or [])
        steps = dict.fromkeys(
            step['type'].rpartition('.')[2] for line in pipelines for step in line
        )
        for name, settings in changes.items():
            if name not in steps:
                raise InputError(
                    f'training_steps({name}=…): the training pipeline has '
                    f'{", ".join(steps)}.'
                )
            for line in pipelines:
                for step in [each for each in line if is_named(each['type'], name)]:
                    if settings is None:
                        line.remove(step)
                    else:
                        step.update(_plain(settings))

    return change


def _begin_to_stream(cfg: dict) -> None:
    model, wrapper = cfg['model'], cfg['optim_wrapper']
    optimizer, loader = wrapper['optimizer'], cfg['train_dataloader']
    if not is_named(optimizer['type'], 'AdamW'):
        raise InputError(
            f'streamed(): optim_wrapper.optimizer.type={optimizer["type"]!r}, and '
            'streamed models train with AdamW alone.'
        )
    model |= dict(
        type='sapiens_plugin.StreamedTopdownPoseEstimator',
        mode='compact',
        micro_batch=2,
    )
    model['backbone'].pop('with_cp', None)
    loader['batch_size'] *= wrapper.pop('accumulative_counts', 1)
    if 'auto_scale_lr' in cfg:
        cfg['auto_scale_lr']['base_batch_size'] = loader['batch_size']
    for split in ('val', 'test'):
        if other := cfg.get(f'{split}_dataloader'):
            other['batch_size'] = min(other.get('batch_size', 1), _VALIDATED)
    for name in ('dtype', 'loss_scale'):  # of AmpOptimWrapper
        wrapper.pop(name, None)
    wrapper['type'] = 'sapiens_plugin.StreamedOptimWrapper'
    kept = {name: optimizer[name] for name in _ADAMW if name in optimizer}
    wrapper['optimizer'] = dict(type='sapiens_plugin.HostAdamW') | kept
    cfg['default_hooks']['streaming'] = dict(
        type='sapiens_plugin.StreamingHook', priority='HIGHEST'
    )


def _check_epochs(wish: str, warmup_epochs: int, max_epochs: int) -> None:
    if not 0 <= warmup_epochs < max_epochs:
        raise InputError(
            f'{wish}(…): max_epochs={max_epochs} are all epochs, and the head trains '
            f'alone for warmup_epochs={warmup_epochs} of them. Give the job more.'
        )


def _schedulers(cfg: Mapping) -> list[dict]:
    found = cfg.get('param_scheduler') or []
    return [found] if isinstance(found, Mapping) else found


def _count_keypoints(path: str) -> int:
    try:
        return len(runpy.run_path(path)['dataset_info']['keypoint_info'])
    except (OSError, SyntaxError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f'on_data(keypoints={path!r}) should name a file with dataset_info=dict('
            f'keypoint_info=…), as in docs/own_data.md: {type(error).__name__}: '
            f'{error}.'
        ) from error


def _plain(value: Any) -> Any:
    """Copy dicts, lists and tuples at any depth, MMEngine's as ordinary ones."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    return value


def _merge(new: Mapping, old: dict, place: str) -> None:
    """Merge as MMEngine merges a config into its base, in place."""
    for key, value in new.items():
        if not isinstance(value, Mapping):
            old[key] = _plain(value)
            continue
        value = _plain(value)
        if key not in old or value.pop('_delete_', False):
            old[key] = value
        elif isinstance(old[key], dict):
            _merge(value, old[key], f'{place}.{key}')
        else:
            raise InputError(
                f'{place}: {key} is {old[key]!r} in the base, and a dict cannot be '
                f'merged into that. Give {key}=dict(_delete_=True, …) to replace it.'
            )


def _mappings(value: Any) -> Iterator[dict]:
    if isinstance(value, dict):
        yield value
    items = value.values() if isinstance(value, dict) else value
    if isinstance(value, dict | list | tuple):
        for item in items:
            yield from _mappings(item)
