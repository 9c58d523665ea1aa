"""The optimizer wrapper of streamed models."""

from collections.abc import Mapping, Sequence

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from sapiens_plugin.core.streaming.host_adamw import HostAdamW
from sapiens_plugin.core.streaming.precision import LossScale
from sapiens_plugin.engine.optim.step_guard import StepGuard, Verdict
from sapiens_plugin.errors import InputError
from sapiens_plugin.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class StreamedOptimWrapper(OptimWrapper):
    """Hands the gradients of a whole step to an optimizer that updates later.

    :class:`~sapiens_plugin.streamed.pose_estimator.StreamedTopdownPoseEstimator`
    computes the gradients of all micro-batches itself and calls :meth:`update`. The
    update of a block is made while the next step's forward pass is on its way to that
    block.

    Args:
        optimizer: A HostAdamW.
        accumulative_counts: Nothing but 1: the model does the accumulation.
        clip_grad: ``dict(max_norm=..., norm_type=2)``, as for
            ``torch.nn.utils.clip_grad_norm_``.

    Attributes:
        guard: Decides which steps are taken. Its own lets through what is finite;
            ``StepGuardHook`` sets another.

    Raises:
        InputError: Another optimizer, accumulation, or another kind of clipping.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        accumulative_counts: int = 1,
        clip_grad: Mapping | None = None,
    ):
        if not isinstance(optimizer, HostAdamW):
            raise InputError(
                f'optim_wrapper.optimizer is {type(optimizer).__name__}, but the '
                'weights of a streamed model live in host memory and are updated by '
                "dict(type='sapiens_plugin.HostAdamW'). Where a base config has one "
                'with arguments of its own, add _delete_=True.'
            )
        if accumulative_counts != 1:
            raise InputError(
                f'optim_wrapper.accumulative_counts={accumulative_counts} has no place '
                'beside a streamed model, which accumulates by itself. Leave it out, '
                f'set train_dataloader.batch_size to the whole batch, '
                f'{accumulative_counts} times what it was, and model.micro_batch to '
                'the images that pass at a time.'
            )
        clip_grad = dict(clip_grad or {})
        if clip_grad.keys() - {'type', 'max_norm', 'norm_type'} or (
            clip_grad.get('type', 'norm') != 'norm'
        ):
            raise InputError(
                f'optim_wrapper.clip_grad={clip_grad}: a streamed model clips by norm, '
                'dict(max_norm=..., norm_type=...), and in no other way.'
            )
        super().__init__(optimizer, clip_grad=clip_grad or None)
        self.loss_scale = LossScale()
        self.guard = StepGuard()

    @property
    def norm_type(self) -> float:
        """Order of the gradient norm."""
        return float((self.clip_grad_kwargs or {}).get('norm_type', 2.0))

    def update(
        self,
        norms: Mapping[nn.Parameter, Tensor],
        losses: Sequence[Tensor],
        *,
        micro_batch: int,
        scaled: bool,
    ) -> None:
        """Clip the gradients in ``param.grad`` and schedule the optimizer's step.

        If the guard does not let it through, all gradients are dropped and nothing is
        scheduled.

        Args:
            norms: The norm of each gradient.
            losses: Those of all micro-batches, scalars.
            micro_batch: Images in each of them; in the last perhaps fewer.
            scaled: Whether the loss was multiplied by :attr:`loss_scale`, which then
                learns how it went.
        """
        self._inner_count += 1
        # In the optimizer's order, as clip_grad_norm_ would find them.
        ordered = [
            norms[param]
            for group in self.optimizer.param_groups
            for param in group['params']
            if param in norms
        ]
        total = torch.linalg.vector_norm(torch.stack(ordered), self.norm_type).cpu()
        verdict = self.guard.judge(
            losses,
            total,
            micro_batch=micro_batch,
            loss_scale=self.loss_scale.scale if scaled else None,
        )
        if scaled and verdict is not Verdict.SKIP:
            self.loss_scale.update(overflow=verdict is Verdict.LOWER_SCALE)
        if verdict is not Verdict.STEP:
            self.optimizer.zero_grad()
            return
        factor = None
        if self.clip_grad_kwargs:
            # The arithmetic of torch.nn.utils.clip_grads_with_norm_.
            factor = torch.clamp(
                self.clip_grad_kwargs['max_norm'] / (total + 1e-6), max=1.0
            )
        self.message_hub.update_scalar('train/grad_norm', float(total))
        self.step(grad_factor=factor)

    def step(self, *, grad_factor: Tensor | None = None) -> None:
        """Schedule a step; MMEngine's schedulers count the calls."""
        self.optimizer.schedule(grad_factor=grad_factor)

    def update_params(self, *args, **kwargs) -> None:
        """Refuse a loss: there is no graph behind it.

        Raises:
            InputError: Always.
        """
        raise InputError(
            'StreamedOptimWrapper works with models of type '
            'sapiens_plugin.StreamedTopdownPoseEstimator. For another one use '
            'optim_wrapper.type=OptimWrapper and optim_wrapper.optimizer.type=AdamW.'
        )

    def state_dict(self) -> dict:
        """Return the optimizer's state, all updates applied, and the loss scale."""
        return {**super().state_dict(), 'loss_scale': self.loss_scale.state_dict()}

    def load_state_dict(self, state_dict: Mapping) -> None:
        """Load a state of this wrapper, or of a stock one around AdamW."""
        state_dict = dict(state_dict)
        if 'loss_scale' in state_dict:
            self.loss_scale.load_state_dict(state_dict.pop('loss_scale'))
        super().load_state_dict(state_dict)
