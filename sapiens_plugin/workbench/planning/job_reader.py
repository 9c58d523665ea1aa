"""Parts of a config as plain numbers: the head, streaming, precision, checkpoints.

Takes a config as mappings, MMEngine's or plain ones, and imports no MM package: what
looks at a config before a job can start is spared the seconds that those take.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence

from sapiens_plugin.core.streaming.modes import DTYPES, MODES
from sapiens_plugin.core.streaming.precision import CHOICES as PRECISIONS
from sapiens_plugin.errors import InputError

from .job import Checkpoints, HeadShape, Streaming

# Bytes of a loader's worker for itself: 61 and 347 MB (benchmarks/worker_memory.py).
_FORKED, _SPAWNED = 100_000_000, 400_000_000


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


def repeated_hooks(cfg: Mapping) -> Iterator[str]:
    """Yield a sentence for each of this plugin's hooks that would act twice.

    As in configs of the time when they stood in ``custom_hooks``.
    """
    places: dict[str, str] = {}
    for place, hook in hooks_of(cfg).items():
        kind = str(hook.get('type'))
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


def read_streaming(model: Mapping) -> Streaming | None:
    """Read how a model is streamed; None: it is not.

    Raises:
        InputError: A mode, a type or a budget that there is not.
    """
    if not is_streamed(model):
        return None
    mode = model.get('mode', 'compact')
    if mode not in MODES:
        raise InputError(f"model.mode={mode!r} is not 'exact' or 'compact'.")
    given = {name: model.get(name) or value for name, value in MODES[mode].items()}
    for name, value in given.items():
        if value not in DTYPES[name]:
            raise InputError(
                f'model.{name}={value!r} is not one of {", ".join(DTYPES[name])}.'
            )
    budget = model.get('vram_budget')
    if not isinstance(budget, int | None):
        raise InputError(
            f'model.vram_budget={budget!r} is not a number of MiB, such as 3000, or '
            'None for what is free.'
        )
    return Streaming(**given, vram_budget=budget)


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
    """Read what matrix products are computed in: ``'auto'`` or a type.

    Raises:
        InputError: A precision that there is not.
    """
    wrapper = cfg.get('optim_wrapper') or {}
    if is_named(wrapper.get('type', 'OptimWrapper'), 'AmpOptimWrapper'):
        return wrapper.get('dtype') or 'float16'
    if not is_streamed(cfg['model']):
        return 'float32'
    precision = cfg['model'].get('precision', 'auto')
    if precision not in PRECISIONS:
        raise InputError(
            f'model.precision={precision!r} is not one of {", ".join(PRECISIONS)}.'
        )
    return precision


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
