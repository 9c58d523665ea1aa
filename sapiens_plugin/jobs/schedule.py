"""Whether schedules, phases and validations fit the epochs of their job."""

import math
from collections.abc import Iterator, Mapping

import torch
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS, init_default_scope

from sapiens_plugin.workbench.job.reader import find_hook, is_named

# Below this share of the peak, an epoch changes next to nothing. A cosine spends 6% of
# its epochs there.
_LOW = 0.01
_LOW_SHARE = 0.1
# A decay is cut off if the rate would fall below this share of where the job ends.
_CUT = 0.5
_TICKS = 20  # that stand for the iterations of an epoch, if those are more
_COUNTS = ('begin', 'end', 'T_max', 'step_size')


def schedule_notes(cfg: Config, epoch_length: int | None = None) -> list[str]:
    """Tell what a job's schedules do that is hardly meant.

    Args:
        cfg: The config of a training job.
        epoch_length: Iterations of an epoch; None leaves schedules out that count
            iterations.

    Returns:
        A sentence or more for each; empty where nothing is odd, or where the rate
        depends on results of the training.
    """
    train_cfg = cfg.get('train_cfg') or {}
    max_epochs, begin = train_cfg.get('max_epochs'), train_cfg.get('val_begin', 1)
    schedulers = cfg.get('param_scheduler') or []
    if not isinstance(max_epochs, int):
        return []
    if isinstance(schedulers, Mapping):
        schedulers = [schedulers]
    notes = list(_phase_notes(cfg, schedulers, max_epochs))
    if cfg.get('val_dataloader') and begin > max_epochs:
        notes.append(
            f'There will be no validation: train_cfg.val_begin={begin} is beyond '
            f'max_epochs={max_epochs}. Nor will there be a best checkpoint.'
        )
    if epoch_length is not None:
        counts = (cfg.get('optim_wrapper') or {}).get('accumulative_counts', 1)
        notes += _warmup_notes(schedulers, max_epochs, epoch_length, counts)
    ticks = min(_TICKS, epoch_length or _TICKS)
    decays = [
        changed
        for each in schedulers
        if not _is_warmup(each)  # see _warmup_notes
        and (changed := _in_ticks(each, max_epochs, epoch_length, ticks))
    ]
    if not decays:
        return notes
    try:
        optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
        rates = _rates(decays, max_epochs, ticks, optimizer.get('lr', 1.0))
    except (TypeError, ValueError, KeyError, AssertionError):  # an error of the job
        return notes
    return notes + list(_rate_notes(rates, max_epochs))


def _phase_notes(
    cfg: Config, schedulers: list[Mapping], max_epochs: int
) -> Iterator[str]:
    begins = {each.get('begin', 0) for each in schedulers if each.get('by_epoch', True)}
    hook = find_hook(cfg, 'PhaseSwitchHook')
    warmup = hook.get('warmup_epochs', 10) if hook else 0
    if hook and warmup < max_epochs and warmup not in begins and begins - {0}:
        later = ', '.join(map(str, sorted(begins - {0})))
        yield (
            f'The backbone begins to train after epoch {warmup} (warmup_epochs of '
            'sapiens_plugin.PhaseSwitchHook, default_hooks.phase_switch), and '
            f'param_scheduler begins its next schedule after epoch {later}. Between '
            'these epochs the learning rate is meant for the other phase. Give both '
            'the same epoch.'
        )
    again = {each.get('begin', 0) for each in filter(_is_warmup, schedulers)} - {0}
    if not hook and again:
        yield (
            f'param_scheduler warms up again after epoch {min(again)}, and no '
            'PhaseSwitchHook (default_hooks.phase_switch) begins a phase there.'
        )
    if (cfg.get('default_hooks') or {}).get('checkpoint', {}) is None:
        yield 'Nothing will be saved: default_hooks.checkpoint is None.'


def _is_warmup(scheduler: Mapping) -> bool:
    kind = scheduler['type']
    rises = scheduler.get('start_factor', 1 / 3) < scheduler.get('end_factor', 1.0)
    return is_named(kind, 'WarmupLR') or (is_named(kind, 'LinearLR') and rises)


def _warmup_notes(
    schedulers: list[Mapping], max_epochs: int, epoch_length: int, counts: int
) -> Iterator[str]:
    begins = {each.get('begin', 0) for each in schedulers if each.get('by_epoch', True)}
    for each in filter(_is_warmup, schedulers):
        begin = each.get('begin', 0)
        if 'optimizer_steps' in each:
            wanted, unit = each['optimizer_steps'], 'optimizer steps'
            end = min((b for b in begins if b > begin), default=max_epochs)
            there = (end - begin) * (epoch_length // counts)
        elif not each.get('by_epoch', True):
            wanted, unit = each.get('end', 0) - begin, 'iterations'
            there = max_epochs * epoch_length - begin
        else:
            wanted, unit = each.get('end', max_epochs) - begin, 'epochs'
            there = max_epochs - begin
        if there < wanted:
            yield (
                f'The warm-up {each["type"]} (param_scheduler, begin={begin}) takes '
                f'{wanted} {unit}, and there are {there}: the learning rate never gets '
                'to its full height. Make it shorter, as with '
                'two_phases(optimizer_steps=…).'
            )


def _in_ticks(
    scheduler: Mapping, max_epochs: int, epoch_length: int | None, ticks: int
) -> dict | None:
    """Write a schedule as one that counts ticks; None where there is no telling."""
    changed = dict(scheduler)
    moves_within = changed.pop('convert_to_iter_based', False)
    by_epoch, last = changed.get('by_epoch', True), max_epochs
    if not by_epoch:
        if epoch_length is None:
            return None
        scale, last = ticks / epoch_length, max_epochs * epoch_length
    else:
        # One that moves between epochs moves once in all their ticks: see _rates.
        scale = ticks if moves_within else 1
    begin = changed.get('begin', 0)
    # Without an end, the runner takes that of the job.
    ends = [last, begin + changed.get('T_max', 0)]
    ends += [count + 1 for count in changed.get('milestones', ())]
    changed.setdefault('end', max(ends))
    for key in _COUNTS:
        if key in changed:
            changed[key] = round(changed[key] * scale)
    for key in ('milestones', 'periods'):
        if key in changed:
            changed[key] = [round(each * scale) for each in changed[key]]
    changed['by_epoch'] = by_epoch and not moves_within
    return changed if changed.get('begin', 0) < changed['end'] else None


def _rates(
    schedulers: list[dict], max_epochs: int, ticks: int, rate: float
) -> list[float]:
    """Compute the rate of each epoch, those included that schedules know beyond."""
    ends = [each['end'] / (1 if each['by_epoch'] else ticks) for each in schedulers]
    horizon = max(max_epochs, *(math.ceil(e) for e in ends if e < 100 * max_epochs), 0)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)
    init_default_scope('mmpose')
    built = [
        PARAM_SCHEDULERS.build(each, default_args=dict(optimizer=optimizer))
        for each in schedulers
    ]
    optimizer.step()  # or a schedule warns of its order
    rates = []
    for tick in range(horizon * ticks):
        if tick % ticks == 0:
            rates.append(optimizer.param_groups[0]['lr'])
        for each in built:
            if not each.by_epoch or (tick + 1) % ticks == 0:
                each.step()
    return rates


def _rate_notes(rates: list[float], max_epochs: int) -> Iterator[str]:
    own, beyond = rates[:max_epochs], rates[max_epochs:]
    peak = max(own)
    used = max(i for i, rate in enumerate(own, 1) if rate >= _LOW * peak)
    low = max_epochs - used
    if low > 1 and low > _LOW_SHARE * max_epochs:
        yield (
            f'The last {low} of {max_epochs} epochs train at less than {_LOW:.0%} of '
            'the highest learning rate: param_scheduler lowers it too early. Give it '
            'the epochs of train_cfg.max_epochs (end, T_max, milestones).'
        )
    if beyond and own[-1] > _LOW * peak and min(beyond) < _CUT * own[-1]:
        yield (
            f'The job ends after epoch {max_epochs} with the learning rate at '
            f'{own[-1] / peak:.0%} of its highest: param_scheduler lowers it until '
            f'epoch {len(rates)}. Give both the same epochs (end, T_max, milestones).'
        )
