"""The line that a person reads while a job trains, and the numbers behind it."""

import psutil
import torch
from mmengine.device import is_cuda_available
from mmengine.runner import LogProcessor, Runner

from sapiens_plugin.registry import LOG_PROCESSORS

from .job_clock import JobClock

_MIB = 2**20


@LOG_PROCESSORS.register_module()
class StatusLogProcessor(LogProcessor):
    """Say in one line where a training is, how it does and how long it will take.

    Beside MMEngine's own scalars, every backend gets ``phase`` (1 or 2),
    ``hours_left``, ``persons_per_second``, ``vram_peak_mib`` (what PyTorch reserved on
    the GPU), ``host_memory_mib`` (the resident set of the training process, without
    its workers), and learning rates by depth: ``lr/stem``, some ``lr/block_N`` and
    ``lr/head``. Without a known time left, there is no ``phase`` and no ``hours_left``;
    without a ``StatusHook``, or epochs, lines and scalars are MMEngine's own. Arguments
    are those of :class:`mmengine.runner.LogProcessor`.
    """

    def get_log_after_iter(
        self, runner: Runner, batch_idx: int, mode: str
    ) -> tuple[dict, str]:
        """Return what MMEngine's processor does, with another line when training."""
        # MMEngine's look at the GPU's memory resets this peak.
        vram = torch.cuda.max_memory_reserved() // _MIB if is_cuda_available() else None
        tag, line = super().get_log_after_iter(runner, batch_idx, mode)
        clocks = (getattr(hook, 'clock', None) for hook in runner.hooks)
        clock = next((each for each in clocks if isinstance(each, JobClock)), None)
        if mode != 'train' or clock is None:
            return tag, line
        prefix = 'train/' if self.log_with_hierarchy else ''
        host = psutil.Process().memory_info().rss // _MIB
        rates = rates_by_depth(runner.optim_wrapper.optimizer.param_groups)
        left = clock.left()
        more = dict(
            persons_per_second=clock.persons_per_second,
            host_memory_mib=host,
            **{f'lr/{name}': rate for name, rate in rates.items()},
        )
        if left is not None:
            more['phase'] = clock.phase_number
            more['hours_left'] = left[1].seconds / 3600
        if vram is not None:
            more['vram_peak_mib'] = vram
        tag.update({prefix + name: value for name, value in more.items()})

        steps = self._get_dataloader_size(runner, mode)
        parts = [] if left is None else [clock.phase.name]
        parts += [
            f'epoch {runner.epoch + 1}/{runner.max_epochs}',
            f'step {batch_idx + 1}/{steps}',
            f'loss {tag[prefix + "loss"]:.4g}',
        ]
        if prefix + 'acc_pose' in tag:
            parts.append(f'acc_pose {tag[prefix + "acc_pose"]:.3f}')
        parts += [
            f'lr {_span(rates)}',
            f'{clock.persons_per_second:.3g} persons/s',
            'no GPU' if vram is None else f'VRAM peak {vram:,} MiB',
            f'host {host / 1024:.1f} GiB',
        ]
        if left is not None:
            parts.append('left: phase {}, job {}'.format(*left))
        return tag, ' | '.join(parts)


def rates_by_depth(param_groups: list[dict]) -> dict[str, float]:
    """Return the learning rates of the stem, some blocks and the head.

    Args:
        param_groups: Those of ``LayerDecayOptimWrapperConstructor``.

    Returns:
        Rates by name from the input on: ``'stem'``, of the blocks the first, the last
        and three in between as ``'block_0'`` and so on, ``'head'``. What does not train
        in this phase has 0. Other groups than those of the constructor have one rate,
        that of the ``'head'``.
    """
    rates = {}
    for group in param_groups:
        layer = group.get('group_name', '').removeprefix('layer_').split('_')[0]
        trains = any(param.requires_grad for param in group['params'])
        rates[int(layer or 0)] = group['lr'] * trains
    *earlier, head = sorted(rates)
    blocks = [layer for layer in earlier if layer > 0]
    chosen = {blocks[round(i * (len(blocks) - 1) / 4)] for i in range(5) if blocks}
    named = {f'block_{layer - 1}': rates[layer] for layer in sorted(chosen)}
    stem = {'stem': rates[0]} if earlier and earlier[0] == 0 else {}
    return {**stem, **named, 'head': rates[head]}


def _span(rates: dict[str, float]) -> str:
    first = next(name for name, rate in rates.items() if rate or name == 'head')
    if rates[first] == rates['head']:
        return f'{rates["head"]:.2g}'
    return f'{rates["head"]:.2g} ({first.replace("_", " ")} {rates[first]:.2g})'
