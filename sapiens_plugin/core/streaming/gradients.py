"""How gradients come home."""

from collections.abc import Sequence
from concurrent.futures import Future

import torch
from torch import Tensor, nn

from sapiens_plugin.core.utils.unforked import unforked_zeros

from .courier import Courier, now_on
from .stage import Stage


class GradientReturn:
    """Brings the gradients of a step to ``param.grad`` of parameters in host memory.

    Home buffers are made once and used again in every step: a gradient must have been
    consumed, or dropped, before the next one of the same parameter leaves.

    Args:
        device: Where the gradients are computed.
        dtype: What they are kept in at home: float32, or bfloat16 for half the memory.
        travels: Whether home is another memory than the device's.
    """

    def __init__(self, device: torch.device, *, dtype: torch.dtype, travels: bool):
        self._device = device
        self._dtype = dtype
        self._courier = Courier(device) if travels else None
        self._buffers: dict[nn.Parameter, Tensor] = {}
        self._leaving: Future | None = None
        self._home: dict[nn.Parameter, Tensor] = {}
        self._norms: dict[nn.Parameter, Tensor] = {}

    def start(self) -> None:
        """Begin a step."""
        self._home, self._norms = {}, {}

    def send(
        self,
        stages: Sequence[Stage],
        leaves: Sequence[Sequence[Tensor]],
        *,
        norm_type: float,
        unscale: float,
    ) -> None:
        """Send the gradients of some stages home, complete in float32.

        Args:
            stages: Whose parameters they belong to.
            leaves: Carry the gradients: for each stage one for each parameter, or none.
            norm_type: Order of the norm noted of each gradient.
            unscale: Factor that undoes the scaling of the loss.
        """
        pairs = []
        for stage, stage_leaves in zip(stages, leaves, strict=True):
            for param, leaf in zip(stage.params, stage_leaves, strict=True):
                if leaf.grad is None:
                    continue
                grad, leaf.grad = leaf.grad, None
                if unscale != 1:
                    grad.mul_(unscale)
                # Of the float32 gradient, on the device, as clip_grad_norm_ does.
                self._norms[param] = torch.linalg.vector_norm(grad, norm_type)
                if self._courier is None and grad.dtype == self._dtype:
                    self._home[param] = grad
                else:
                    self._home[param] = self._buffer(param)
                    pairs.append((grad.to(self._dtype), self._home[param]))
        if self._courier is None:
            for grad, buffer in pairs:
                buffer.copy_(grad)
            return
        before, self._leaving = (
            self._leaving,
            self._courier.download(pairs, after=now_on(self._device)),
        )
        if before is not None:
            before.result()  # no more than two sets of gradients on the device

    def finish(self) -> dict[nn.Parameter, Tensor]:
        """Set ``param.grad``, and return the norms as scalars on the device."""
        if self._leaving is not None:
            self._leaving.result()
            self._leaving = None
        for param, grad in self._home.items():
            param.grad = None  # may be of another type, as at a change of mode
            param.grad_dtype = grad.dtype
            param.grad = grad
        return self._norms

    def abort(self) -> None:
        """Let what is under way arrive, and forget the step."""
        if self._courier is not None:
            self._courier.settle()
        self._leaving = None
        self.start()

    def close(self) -> None:
        """End the transfers."""
        if self._courier is not None:
            self._courier.close()

    def _buffer(self, param: nn.Parameter) -> Tensor:
        if param not in self._buffers:
            self._buffers[param] = unforked_zeros(param.shape, dtype=self._dtype)
        return self._buffers[param]
