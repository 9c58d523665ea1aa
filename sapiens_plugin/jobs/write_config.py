"""Writes a planned job as a config on top of the one it was planned from."""

import os
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath

from mmengine.config import Config

from sapiens_plugin.core.vit.architectures import ARCHITECTURES
from sapiens_plugin.errors import InputError
from sapiens_plugin.workbench.config_files import check_new_config_name
from sapiens_plugin.workbench.planning.amounts import duration, size
from sapiens_plugin.workbench.planning.job import TrainingJob
from sapiens_plugin.workbench.planning.plan import Plan

# As published (docs/weights.md).
_PRETRAINED = {
    'sapiens_0.3b': 'sapiens_0.3b/sapiens_0.3b_epoch_1600_torchscript.pt2',
    'sapiens_0.6b': 'sapiens_0.6b/sapiens_0.6b_epoch_1600_torchscript.pt2',
    'sapiens_1b': 'sapiens_1b/sapiens_1b_epoch_173_torchscript.pt2',
    'sapiens_2b': 'sapiens_2b/sapiens_2b_epoch_660_torchscript.pt2',
}

_RESIZED = """
codec = {codec}
sized = dict(
    TopdownAffine=dict(input_size=codec['input_size']),
    GenerateTarget=dict(encoder=codec),
)
train_pipeline, val_pipeline, test_pipeline = (
    [dict(step, **sized.get(step['type'], {{}})) for step in loader.dataset.pipeline]
    for loader in (
        _base_.train_dataloader,
        _base_.val_dataloader,
        _base_.test_dataloader,
    )
)
del sized
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=val_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
"""

_EPOCHS = """
max_epochs = {max_epochs}
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
{schedulers}]
# With so few epochs, one is too much to lose.
default_hooks = dict(checkpoint=dict(interval=1))
"""

_WARMUP = """custom_hooks = [
    dict(hook, warmup_epochs={warmup_epochs})
    if hook['type'] == 'sapiens_plugin.PhaseSwitchHook'
    else hook
    for hook in _base_.custom_hooks
]
"""


def write_config(path: str | Path, cfg: Config, old: TrainingJob, plan: Plan) -> None:
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
    part = path.with_name(f'{path.name}.part')
    try:
        part.write_text(config_text(path, cfg, old, plan), encoding='utf-8')
        part.replace(path)
    except OSError as error:
        raise InputError(
            f'--write {path} cannot be written: {error.strerror or error}.'
        ) from error


def config_text(path: Path, cfg: Config, old: TrainingJob, plan: Plan) -> str:
    """Return the text of a config at ``path``, which names ``cfg``'s file as base."""
    job = plan.job
    text = (
        f'# Found by tools/plan.py: {duration(plan.total_hours)} on {plan.card.name}, '
        f'{plan.vram_peak / 2**20:.0f} MiB of GPU memory\n'
        '# and '
        f'{size(sum(plan.host.values()))} of host memory; computed, not measured.\n'
        f"_base_ = '{_base(path, cfg)}'\n"
    )
    if job.img_size != old.img_size:
        text += _RESIZED.format(codec=_codec(cfg, job))
    if model := _model(cfg, old, job):
        text += f'\nmodel = {_literal(model)}\n'
    if (job.batch, job.accumulation) != (old.batch, old.accumulation):
        resized = job.img_size != old.img_size  # then there is one already
        text += (
            f'train_dataloader{".update" if resized else " = dict"}'
            f'(batch_size={job.batch})\n'
        )
        text += f'optim_wrapper = dict(accumulative_counts={job.accumulation})\n'
        if 'auto_scale_lr' in cfg:
            text += f'auto_scale_lr = dict(base_batch_size={job.batch})\n'
    if (job.max_epochs, job.warmup_epochs) != (old.max_epochs, old.warmup_epochs):
        schedulers = ''.join(
            f'    {_literal(_rescheduled(scheduler, old, job))},\n'
            for scheduler in cfg.param_scheduler
        )
        text += _EPOCHS.format(max_epochs=job.max_epochs, schedulers=schedulers)
    if job.warmup_epochs != old.warmup_epochs:
        text += _WARMUP.format(warmup_epochs=job.warmup_epochs)
    return text


def _base(path: Path, cfg: Config) -> str:
    base = Path(cfg.filename).resolve()
    try:
        return PureWindowsPath(os.path.relpath(base, path.resolve().parent)).as_posix()
    except ValueError:  # on another drive
        return base.as_posix()


def _codec(cfg: Config, job: TrainingJob) -> str:
    height, width = job.img_size
    codec = dict(
        cfg.model.head.decoder,
        input_size=(width, height),
        heatmap_size=(width // 4, height // 4),
        sigma=height / 128,  # MMPose's, at such sizes
    )
    return _literal(codec)


def _model(cfg: Config, old: TrainingJob, job: TrainingJob) -> dict:
    model, backbone, head = {}, {}, {}
    if job.micro_batch != old.micro_batch and job.streaming:
        model['micro_batch'] = job.micro_batch
    if job.streaming and job.streaming != old.streaming:
        model['vram_budget'] = job.streaming.vram_budget
    if job.arch != old.arch:
        names = {arch: name for name, arch in ARCHITECTURES.items()}
        name = backbone['arch'] = names[job.arch]
        backbone['init_cfg'] = dict(checkpoint=_weights(cfg, name))
        head['in_channels'] = job.arch.embed_dims
    if job.img_size != old.img_size:
        backbone['img_size'] = job.img_size
        head['decoder'] = _Name('codec')
    if job.frozen_stages != old.frozen_stages:
        backbone['frozen_stages'] = job.frozen_stages
    if job.with_cp != old.with_cp:
        backbone['with_cp'] = job.with_cp
    if backbone:
        model['backbone'] = backbone
    if head:
        model['head'] = head
    return model


def _weights(cfg: Config, name: str) -> str:
    """Return where the weights of another size lie, beside those of the config."""
    own = Path((cfg.model.backbone.get('init_cfg') or {}).get('checkpoint', ''))
    folder = Path(os.path.normpath(own.parent.parent))
    return (folder / _PRETRAINED[name]).as_posix()


def _rescheduled(scheduler: Mapping, old: TrainingJob, job: TrainingJob) -> dict:
    """Move a schedule's epochs with the phases."""

    def moved(epoch: int) -> int:
        if epoch <= old.warmup_epochs:
            return round(epoch * job.warmup_epochs / max(old.warmup_epochs, 1))
        share = (epoch - old.warmup_epochs) / (old.max_epochs - old.warmup_epochs)
        return job.warmup_epochs + round(share * (job.max_epochs - job.warmup_epochs))

    changed = dict(scheduler)
    if changed.get('by_epoch', True):
        for key in ('begin', 'end', 'T_max'):
            if isinstance(changed.get(key), int):
                changed[key] = moved(changed[key])
        if 'milestones' in changed:
            changed['milestones'] = [moved(epoch) for epoch in changed['milestones']]
    return changed


class _Name(str):
    """A name in the config, not a text."""

    __slots__ = ()


def _literal(value: object) -> str:
    """Write a value as Python."""
    if isinstance(value, Mapping):
        inside = ', '.join(f'{key}={_literal(item)}' for key, item in value.items())
        return f'dict({inside})'
    if isinstance(value, list | tuple):
        inside = ', '.join(map(_literal, value))
        if isinstance(value, list):
            return f'[{inside}]'
        return f'({inside},)' if len(value) == 1 else f'({inside})'
    return str(value) if isinstance(value, _Name) else repr(value)
