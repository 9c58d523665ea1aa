"""Stock optimizer wrappers, with a guard before their steps."""

import math
from typing import Any

import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from torch import Tensor

from .step_guard import StepGuard, Verdict


class GuardedOptimWrapper:
    """What ``train_step`` gets in the place of an optimizer wrapper.

    It does what the wrapper would do, but for steps that the guard leaves out: their
    gradients are dropped.

    Args:
        wrapper: The one that steps.
        guard: Decides.
    """

    def __init__(self, wrapper: OptimWrapper, guard: StepGuard):
        self._wrapper = wrapper
        self._guard = guard
        self._losses: list[Tensor] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapper, name)

    def update_params(
        self,
        loss: Tensor,
        step_kwargs: dict | None = None,
        zero_kwargs: dict | None = None,
    ) -> None:
        """Compute gradients; step when enough have come together, if they are good."""
        wrapper = self._wrapper
        self._losses.append(loss.detach())
        wrapper.backward(wrapper.scale_loss(loss))
        if not wrapper.should_update():
            return
        losses, self._losses = self._losses, []
        verdict = self._guard.judge(
            losses, self._grad_norm(), loss_scale=self._loss_scale()
        )
        # A scaler that has overflowed skips the step by itself, and learns.
        if verdict is not Verdict.SKIP:
            wrapper.step(**(step_kwargs or {}))
        wrapper.zero_grad(**(zero_kwargs or {}))

    def _grad_norm(self) -> Tensor:
        grads = [
            param.grad
            for group in self._wrapper.optimizer.param_groups
            for param in group['params']
            if param.grad is not None
        ]
        norm = torch.nn.utils.get_total_norm(grads)
        if isinstance(self._wrapper, AmpOptimWrapper) and not norm.isfinite():
            # Of scaled gradients the squares may overflow where none of them has. The
            # largest of them takes longer to find.
            return torch.nn.utils.get_total_norm(grads, norm_type=math.inf)
        return norm

    def _loss_scale(self) -> float | None:
        """Return the loss scale if it goes down when gradients overflow."""
        wrapper = self._wrapper
        if isinstance(wrapper, AmpOptimWrapper) and wrapper._scale_update_param is None:
            return wrapper.loss_scaler.get_scale()
        return None
