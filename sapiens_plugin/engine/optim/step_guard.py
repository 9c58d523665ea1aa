"""Which optimizer steps are taken, and which are left out."""

import logging
import math
from collections.abc import Sequence
from enum import Enum, auto
from statistics import median

import torch
from mmengine.dist import all_gather_object, all_reduce
from mmengine.logging import print_log
from torch import Tensor


class Verdict(Enum):
    """What is to be done with the gradients of a step."""

    STEP = auto()
    LOWER_SCALE = auto()  # drop them: an overflow in the search for a loss scale
    SKIP = auto()  # drop them


class StepGuard:
    """Leaves out optimizer steps that would do harm, and says which images were in.

    Those are steps with a loss or gradient that is not finite, and, if there is a
    ``spike_factor``, with a loss far above the usual. Several processes decide as one.

    Args:
        spike_factor: How many times the median loss of the last ``window`` steps taken
            is too much; None is never.
        window: Number of these steps; with fewer, no loss is too much.

    Attributes:
        state: All that decisions depend on: ``losses`` of the last steps taken,
            ``skipped_in_a_row`` up to now and ``skipped`` in all. It is changed in
            place, so that whoever holds it can save it.
        left_out: Steps that were not taken, skipped or not.
        images: What the images of the coming step are called, a list for each batch
            of the data loader; whoever sees the batches notes them here.
    """

    def __init__(self, *, spike_factor: float | None = None, window: int = 100):
        self.spike_factor = spike_factor
        self.window = window
        self.state = dict(losses=[], skipped_in_a_row=0, skipped=0)
        self.left_out = 0
        self.images: list[list[str]] = []

    def judge(
        self,
        losses: Sequence[Tensor],
        grad_norm: Tensor,
        *,
        micro_batch: int | None = None,
        loss_scale: float | None = None,
    ) -> Verdict:
        """Decide about a step, log if it is not taken, and count.

        Args:
            losses: Those of all micro-batches of the step in their order, scalars.
            grad_norm: Norm of all its gradients, a scalar.
            micro_batch: Into how many images at a time a batch was split; None: it
                was not.
            loss_scale: What losses were multiplied by, where a lower scale can be
                tried; an overflow is no fault then.
        """
        batches, self.images = self.images, []
        losses = torch.stack([loss.detach().float() for loss in losses])
        summary = torch.stack([losses.mean(), grad_norm.to(losses)])
        all_reduce(summary, 'mean')
        loss, norm = summary.tolist()

        state, limit = self.state, self._limit()
        if not math.isfinite(loss):
            fault = 'The loss of a step is not finite'
        elif not math.isfinite(norm):
            if loss_scale is not None and loss_scale > 1:
                self.left_out += 1
                print_log(
                    f'Float16 gradients overflowed at a loss scale of {loss_scale:g}; '
                    'it is lowered.',
                    logger='current',
                )
                return Verdict.LOWER_SCALE
            fault = 'The gradient of a step is not finite'
        elif loss > limit:
            fault = (
                f'The loss of a step is {loss:.4g}, more than {self.spike_factor:g} '
                f'times the median of the last {self.window}'
            )
        else:
            state['losses'] = [*state['losses'], loss][-self.window :]
            state['skipped_in_a_row'] = 0
            return Verdict.STEP
        self.left_out += 1
        state['skipped_in_a_row'] += 1
        state['skipped'] += 1
        parts = [
            names[start : start + (micro_batch or len(names))]
            for names in batches
            for start in range(0, len(names), micro_batch or len(names))
        ]
        guilty = (~losses.isfinite() | (losses > limit)).tolist()
        if len(guilty) != len(parts):  # a model that updates in its own way
            guilty = [False] * len(parts)
        print_log(
            f'{fault}; the step is skipped ({state["skipped_in_a_row"]} in a row, '
            f'{state["skipped"]} in all). Images: '
            + (', '.join(_images(parts, guilty)) or 'StepGuardHook would know them'),
            logger='current',
            level=logging.WARNING,
        )
        return Verdict.SKIP

    def _limit(self) -> float:
        losses = self.state['losses'][-self.window :]
        if self.spike_factor is None or len(losses) < self.window:
            return math.inf
        return self.spike_factor * median(losses)


def _images(parts: Sequence[list[str]], guilty: Sequence[bool]) -> list[str]:
    """Name the images of the guilty micro-batches of all processes, or else of all."""
    named, others = set(), set()
    for names, is_guilty in zip(parts, guilty, strict=True):
        (named if is_guilty else others).update(names)
    gathered = all_gather_object((named, others))
    named = set().union(*(part for part, _ in gathered))
    others = set().union(*(part for _, part in gathered))
    return sorted(named or others)
