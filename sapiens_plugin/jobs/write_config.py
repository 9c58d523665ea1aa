"""Writes a planned job as a config on top of the one it was planned from."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

from mmengine.config import Config

from sapiens_plugin.core.utils.amounts import duration, size
from sapiens_plugin.core.utils.whole_file import write_whole
from sapiens_plugin.core.vit.architectures import ARCHITECTURES
from sapiens_plugin.errors import InputError
from sapiens_plugin.workbench.config_files import check_new_config_name
from sapiens_plugin.workbench.job.job import Job
from sapiens_plugin.workbench.planning.plan import Plan


def write_config(path: str | Path, cfg: Config, old: Job, plan: Plan) -> None:
    """Write the config of a plan.

    Args:
        path: The new file; whole or not there at all.
        cfg: The config that was planned from.
        old: Its job.
        plan: Of the new job.

    Raises:
        InputError: The file is there already, its folder is not, or it cannot be
            written.
    """
    path = Path(path)
    check_new_config_name(path)
    try:
        write_whole(path, config_text(path, cfg, old, plan))
    except OSError as error:
        raise InputError(
            f'--write {path} cannot be written: {error.strerror or error}.'
        ) from error


def config_text(path: Path, cfg: Config, old: Job, plan: Plan) -> str:
    """Return the text of a config at ``path``, which names ``cfg``'s file as base."""
    wishes = list(_wishes(cfg, old, plan.job))
    names = sorted({name for name, _ in wishes if name != 'dict'} | {'recipe'})
    text = (
        f'# python3 tools/train.py {path.as_posix()}\n'
        '#\n'
        f'# Found by tools/plan.py: {duration(plan.total_hours)} on {plan.card.name}, '
        f'{plan.vram_peak / 2**20:.0f} MiB of GPU memory\n'
        f'# and {size(sum(plan.host.values()))} of host memory; computed, not '
        'measured.\n'
        f"_base_ = '{_base(path, cfg)}'\n"
    )
    if not wishes:
        return text
    arguments = [_Code('_base_'), *(_Code(_call(*wish, 8)) for wish in wishes)]
    update = _call('globals().update', [_Code(_call('recipe', arguments, 4))], 0)
    return f'{text}from sapiens_plugin.recipe import {", ".join(names)}\n\n{update}\n'


def _wishes(cfg: Config, old: Job, job: Job) -> Iterator[tuple[str, list | dict]]:
    """Yield names and arguments of what makes ``job`` of ``old``."""

    def differing(*names: str, of: Any = job, than: Any = old) -> dict:
        values = {name: getattr(of, name) for name in names}
        return {k: v for k, v in values.items() if v != getattr(than, k)}

    if job.arch != old.arch:
        names = {arch: name for name, arch in ARCHITECTURES.items()}
        yield 'sapiens', [names[job.arch].removeprefix('sapiens_')]
    if job.img_size != old.img_size:
        yield 'resized', [*job.img_size]
    schedule = differing('max_epochs', 'warmup_epochs')
    if schedule:
        yield 'epochs', {'': job.max_epochs} | differing('warmup_epochs')
    if job.streaming:
        budget = differing('vram_budget', of=job.streaming, than=old.streaming)
        if changed := differing('micro_batch') | budget:
            yield 'streamed', changed
    rest = {}
    backbone = differing('frozen_stages', 'with_cp')
    if job.arch != old.arch and old.frozen_stages > 0:  # sapiens() has moved them
        backbone['frozen_stages'] = job.frozen_stages
    if backbone:
        rest['model'] = dict(backbone=backbone)
    if differing('batch', 'accumulation'):
        rest['train_dataloader'] = dict(batch_size=job.batch)
        rest['optim_wrapper'] = dict(accumulative_counts=job.accumulation)
        if 'auto_scale_lr' in cfg:
            rest['auto_scale_lr'] = dict(base_batch_size=job.batch)
    if schedule:  # with few epochs, one is too much to lose
        rest['default_hooks'] = dict(checkpoint=dict(interval=1))
    if rest:
        yield 'dict', rest


def _base(path: Path, cfg: Config) -> str:
    base = Path(cfg.filename).resolve()
    try:
        return PureWindowsPath(os.path.relpath(base, path.resolve().parent)).as_posix()
    except ValueError:  # on another drive
        return base.as_posix()


class _Code(str):
    """Code, not a text."""

    __slots__ = ()


def _call(name: str, arguments: list | dict, indent: int) -> str:
    """Write a call in a line, or in one for each argument where that is too long.

    Args:
        name: What is called.
        arguments: Values in their order, or by name; an empty name is none.
        indent: Of the line that it stands in.
    """
    if isinstance(arguments, list):
        arguments = {index: value for index, value in enumerate(arguments)}

    def write(indent: int) -> list[str]:
        return [
            (f'{key}=' if isinstance(key, str) and key else '')
            + (
                _call('dict', value, indent)
                if isinstance(value, Mapping)
                else str(value)
                if isinstance(value, _Code)
                else repr(value)
            )
            for key, value in arguments.items()
        ]

    line = f'{name}({", ".join(write(indent))})'
    if len(line) + indent < 80 and '\n' not in line:
        return line
    comma = ',' if len(arguments) > 1 else ''
    inside = ''.join(
        f'{" " * (indent + 4)}{each}{comma}\n' for each in write(indent + 4)
    )
    return f'{name}(\n{inside}{" " * indent})'
