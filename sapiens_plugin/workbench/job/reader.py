"""Reads a config into the one description of its job.

Takes mappings, MMEngine's or plain ones, and imports no MM package: what looks at a
config before a job can start is spared the seconds that those take.
"""

import os
import reprlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sapiens_plugin.core.streaming.modes import (
    CHOICES,
    Streaming,
    read_streaming,
)
from sapiens_plugin.core.vit.architectures import get_architecture
from sapiens_plugin.core.vit.model import patch_grid
from sapiens_plugin.errors import InputError

from .job import Checkpoints, DataSource, HeadShape, Job

_SPLITS = ('train', 'val', 'test')
# Bytes of a loader's worker for itself: 61 and 347 MB (benchmarks/worker_memory.py).
_FORKED, _SPAWNED = 100_000_000, 400_000_000


def read_job(cfg: Mapping, config: Path, options: Sequence[str] = ()) -> Job:
    """Read a job off its config; nobody's persons are counted.

    Args:
        cfg: The config, with its changes.
        config: Its file.
        options: The changes as text.

    Raises:
        InputError: This is no job for a Sapiens, or a value is out of its range.
    """
    try:
        return _read(cfg, config, options)
    except (KeyError, AttributeError, TypeError) as error:
        raise _no_job(config, f'{error} is missing or of another kind') from error


def _no_job(config: Path, why: str) -> InputError:
    return InputError(
        f'{config} is not a job for a Sapiens: {why}. It needs model.backbone.type='
        "'sapiens_plugin.SapiensBackbone' and a train_dataloader. The shipped jobs are "
        'in configs/.'
    )


def _read(cfg: Mapping, config: Path, options: Sequence[str]) -> Job:
    model = cfg.get('model') or {}
    backbone = model.get('backbone') or {}
    if not is_named(kind := backbone.get('type', 'missing'), 'SapiensBackbone'):
        raise _no_job(config, f'its backbone is {kind}')
    loaders = {split: cfg.get(f'{split}_dataloader') for split in _SPLITS}
    loaders = {split: loader for split, loader in loaders.items() if loader}
    if 'train' not in loaders:
        raise _no_job(config, 'it has no train_dataloader')
    if not {'arch', 'img_size'} <= backbone.keys():
        raise InputError(f'{config}: model.backbone needs an arch and an img_size.')

    def number(place: str, default: int, least: int = 1) -> int:
        *above, key = place.split('.')
        value = (get(cfg, *above) or {}).get(key, default)
        if not isinstance(value, int) or value < least:
            raise InputError(
                f'{config}: {place}={value!r} should be a whole number from {least} on.'
            )
        return value

    check_schedule(cfg)
    img_size = tuple(backbone['img_size'])
    patch_grid(*img_size)  # or it says which sizes there are
    batches = {split: number(f'{split}_dataloader.batch_size', 1) for split in _SPLITS}
    batch, micro_batch = batches['train'], number('model.micro_batch', 2)
    streaming = streaming_of(model)
    counts_epochs = get(cfg, 'train_cfg', 'max_epochs') is not None
    flip = get(model, 'test_cfg', 'flip_test') or False
    flips = find_hook(cfg, 'FlipTestHook')
    switch = find_hook(cfg, 'PhaseSwitchHook') or dict(warmup_epochs=0)
    arch, frozen = get_architecture(backbone['arch']), backbone.get('frozen_stages', -1)
    if frozen not in range(-1, arch.num_layers + 1):
        raise InputError(
            f'{config}: model.backbone.frozen_stages={frozen!r} is not in -1 to '
            f'{arch.num_layers}, the layers of {reprlib.repr(backbone["arch"])}.'
        )
    return Job(
        config=config,
        options=tuple(options),
        arch=arch,
        img_size=img_size,
        extra_tokens=int(backbone.get('with_cls_token', False)),
        head=read_head(model['head']),
        batch=batch,
        accumulation=number('optim_wrapper.accumulative_counts', 1),
        micro_batch=min(micro_batch, batch) if streaming else batch,
        streaming=streaming,
        precision=read_precision(cfg),
        with_cp=backbone.get('with_cp', False),
        frozen_stages=frozen,
        warmup_epochs=switch.get('warmup_epochs', 10),
        max_epochs=number('train_cfg.max_epochs', 1) if counts_epochs else None,
        # Without a loader, as with --no-validate, there is nobody to predict.
        val_interval=number('train_cfg.val_interval', 1) if 'val' in loaders else None,
        val_begin=number('train_cfg.val_begin', 1, least=0),
        val_batch=batches['val'],
        test_batch=batches['test'],
        val_flip=flip if flips is None else flips.get('val', False),
        test_flip=flip if flips is None else flips.get('test', True),
        loading={
            split: number(f'{split}_dataloader.num_workers', 0, least=0)
            for split in loaders
        },
        worker_memory=read_worker_memory(cfg),
        checkpoints=read_checkpoints(cfg),
        backbone_weights=get(backbone, 'init_cfg', 'checkpoint'),
        whole_weights=cfg.get('load_from'),
        sources=tuple(
            source
            for split, loader in loaders.items()
            for dataset, _ in read_parts(loader.get('dataset') or {})
            for source in _sources(split, dataset)
        ),
        work_dir=Path(cfg.get('work_dir') or Path('work_dirs', config.stem)),
        other_dirs=tuple(map(Path, _other_dirs(cfg))),
    )


def get(mapping: Mapping | None, *keys: str):
    """Return what lies at the end of some keys; None where one of them is not."""
    for key in keys:
        mapping = (mapping or {}).get(key)
    return mapping


def is_named(type_name: str, name: str) -> bool:
    """Tell whether a config's type is a class of that name, in whatever scope."""
    return type_name.rpartition('.')[2] == name


def is_streamed(model: Mapping) -> bool:
    """Tell whether a model's weights are streamed."""
    return is_named(model.get('type', ''), 'StreamedTopdownPoseEstimator')


def hooks_of(cfg: Mapping) -> dict[str, Mapping]:
    """Return a config's hooks by where they stand, in the order of registration.

    Args:
        cfg: A config; hooks that are turned off by None are left out.
    """
    named = {
        f'default_hooks.{name}': hook
        for name, hook in (cfg.get('default_hooks') or {}).items()
        if isinstance(hook, Mapping)  # not None, which turns it off
    }
    listed = {
        f'custom_hooks[{number}]': hook
        for number, hook in enumerate(cfg.get('custom_hooks') or ())
        if isinstance(hook, Mapping)
    }
    return named | listed


def find_hook(cfg: Mapping, name: str) -> Mapping | None:
    """Return the settings of the first hook of a class, in whatever scope."""
    return next(
        (
            hook
            for hook in hooks_of(cfg).values()
            if is_named(str(hook.get('type')), name)
        ),
        None,
    )


def check_hook_name(name: str, hooks: Mapping) -> None:
    """Check that a hook whose settings are to change is one of ``default_hooks``.

    Raises:
        InputError: It is not, so that a change would be without effect.
    """
    if name not in hooks:
        raise InputError(
            f'default_hooks.{name} is none of the hooks of this config, which are '
            f'{", ".join(hooks)}. A new one needs a type.'
        )


def hook_faults(cfg: Mapping) -> Iterator[str]:
    """Yield a sentence for each hook without a type, or of this plugin and there twice.

    Twice as in configs of the time when they stood in ``custom_hooks``.
    """
    places: dict[str, str] = {}
    hooks = hooks_of(cfg)
    for place, hook in hooks.items():
        if not (kind := str(hook.get('type', ''))):
            others = ', '.join(other for other in hooks if other != place)
            yield (
                f'{place} has no type, and the base has no hook of that name. Its '
                f'hooks are {others}.'
            )
            continue
        first = places.setdefault(kind, place)
        if first != place and kind.startswith('sapiens_plugin.'):
            yield (
                f'{kind} is registered twice, in {first} and in {place}, and would act '
                f'twice. Put its settings into {first} and leave {place} out.'
            )


def read_parts(
    dataset: Mapping, after: Sequence[Mapping] = ()
) -> Iterator[tuple[Mapping, list[Mapping]]]:
    """Yield the data sets inside wrappers such as ``CombinedDataset``.

    Args:
        dataset: Config of a data set, wrapped or not.
        after: The steps of the wrappers around it.

    Yields:
        Each with all the steps that its samples go through.
    """
    steps = [*(dataset.get('pipeline') or ()), *after]
    inner = dataset.get('datasets') or dataset.get('dataset')
    if inner is None:
        yield dataset, steps
        return
    for part in [inner] if isinstance(inner, Mapping) else inner:
        yield from read_parts(part, steps)


def read_head(head: Mapping) -> HeadShape:
    """Read ``model.head``.

    Raises:
        InputError: It has more channels than kernels, or the other way round.
    """
    deconv = tuple(head.get('deconv_out_channels', (256, 256, 256)) or ())
    conv = tuple(head.get('conv_out_channels') or ())
    shape = HeadShape(
        deconv_channels=deconv,
        deconv_kernels=tuple(head.get('deconv_kernel_sizes', (4, 4, 4))[: len(deconv)]),
        conv_channels=conv,
        conv_kernels=tuple(head.get('conv_kernel_sizes') or ())[: len(conv)],
        final_kernel=(head.get('final_layer') or {}).get('kernel_size', 1),
        keypoints=head['out_channels'],
    )
    for kind in ('deconv', 'conv'):
        channels = getattr(shape, f'{kind}_channels')
        kernels = getattr(shape, f'{kind}_kernels')
        if len(channels) != len(kernels):
            raise InputError(
                f'model.head has {len(channels)} {kind}_out_channels and '
                f'{len(kernels)} {kind}_kernel_sizes. It needs as many of both.'
            )
    return shape


def streaming_of(model: Mapping) -> Streaming | None:
    """Read how a model is streamed; None: it is not.

    Raises:
        InputError: One of its settings cannot be what it is.
    """
    if not is_streamed(model):
        return None
    given = {*CHOICES, 'vram_budget'} & model.keys()
    return read_streaming(**{name: model[name] for name in given})


def check_schedule(cfg: Mapping) -> None:
    """Check that each schedule of the learning rate ends after it begins.

    Raises:
        InputError: One does not, as where a job has no more epochs than its warm-up.
    """
    max_epochs = (cfg.get('train_cfg') or {}).get('max_epochs')
    if not isinstance(max_epochs, int):
        return  # a job that counts iterations
    schedulers = cfg.get('param_scheduler') or []
    for scheduler in [schedulers] if isinstance(schedulers, Mapping) else schedulers:
        begin, end = scheduler.get('begin', 0), scheduler.get('end', max_epochs)
        if scheduler.get('by_epoch', True) and begin >= end:
            raise InputError(
                f"The learning rate's {scheduler.get('type')} (param_scheduler) begins "
                f'at epoch {begin} and ends at epoch {end}, with train_cfg.max_epochs='
                f'{max_epochs}. Give the job more epochs than its warm-up has, or move '
                'its schedules.'
            )


def read_precision(cfg: Mapping) -> str:
    """Read what matrix products are computed in: ``'auto'`` or a type."""
    wrapper = cfg.get('optim_wrapper') or {}
    if is_named(wrapper.get('type', 'OptimWrapper'), 'AmpOptimWrapper'):
        return wrapper.get('dtype') or 'float16'
    if not is_streamed(cfg['model']):
        return 'float32'
    return cfg['model'].get('precision', 'auto')


def read_worker_memory(cfg: Mapping) -> dict[str, int]:
    """Read what loads images during training: bytes by how processes are started.

    Workers that persist, and those of a loop by iterations, stay while those of the
    other loader work. Windows cannot fork.
    """
    loaders = [cfg.get(f'{name}_dataloader') or {} for name in ('train', 'val')]
    numbers = [loader.get('num_workers') or 0 for loader in loaders]
    by_epoch = (cfg.get('train_cfg') or {}).get('by_epoch', True)
    persist = not by_epoch or any(each.get('persistent_workers') for each in loaders)
    number = (sum if persist else max)(numbers)
    mp_cfg = (cfg.get('env_cfg') or {}).get('mp_cfg') or {}
    if sys.platform != 'win32' and mp_cfg.get('mp_start_method', 'fork') == 'fork':
        return dict(forked_workers=number * _FORKED)
    return dict(spawned_workers=number * _SPAWNED)


def checkpoint_hook(cfg: Mapping) -> Mapping:
    """Return the settings of the hook that saves; empty where there is none."""
    return (cfg.get('default_hooks') or {}).get('checkpoint') or {}


def read_checkpoints(cfg: Mapping) -> Checkpoints:
    """Read what is written, and how much of it is kept."""
    hook = checkpoint_hook(cfg)
    by_time = is_named(hook.get('type', ''), 'CheckpointHook') and (
        hook['type'].startswith('sapiens_plugin.')
        and hook.get('interval_minutes', 30) is not None
    )
    return Checkpoints(
        interval=max(hook.get('interval', -1), 0),
        kept=hook.get('max_keep_ckpts', -1),
        by_time=hook.get('max_keep_by_time', 2) if by_time else 0,
        best=bool(hook.get('save_best')),
        last=hook.get('save_last', True),
    )


def _sources(split: str, dataset: Mapping) -> Iterator[DataSource]:
    if not dataset.get('ann_file'):
        return
    root = Path(os.path.normpath(dataset.get('data_root') or '.'))
    boxes = dataset.get('bbox_file')
    yield DataSource(
        split=split,
        root=root,
        annotations=root / dataset['ann_file'],
        images=root / (get(dataset, 'data_prefix', 'img') or ''),
        detections=Path(os.path.normpath(boxes)) if boxes else None,
        counted=is_named(dataset.get('type', ''), 'CocoDataset') and not boxes,
    )


def _other_dirs(cfg: Mapping) -> Iterator[str]:
    visualizer = cfg.get('visualizer') or {}
    writers = [visualizer, *(visualizer.get('vis_backends') or ())]
    yield from (writer['save_dir'] for writer in writers if writer.get('save_dir'))
    if folder := checkpoint_hook(cfg).get('out_dir'):
        yield folder
