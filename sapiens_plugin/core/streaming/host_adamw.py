"""AdamW for parameters in host memory, with deferred updates and narrow moments."""

import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from sapiens_plugin.core.utils.mapped import release_pages
from sapiens_plugin.errors import InputError

from .moments import BLOCK, CHUNK, Encoding, encoding_of, get_encoding


@dataclass(frozen=True)
class _Settings:
    """What a step was asked to do, as it was when it was asked."""

    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    grad_factor: float | None = None


class HostAdamW(torch.optim.Optimizer):
    """AdamW on the CPU whose updates can wait until their parameter is needed next.

    ``step()`` updates at once, as any optimizer. ``schedule()`` takes the gradients and
    notes the settings; ``flush(params)`` then updates when and where it suits: block by
    block, in any order, from another thread. Saving and loading flush first.

    With fp32 moments and gradients a step equals ``torch.optim.AdamW(fused=True)`` to
    the last bit, and each loads the other's ``state_dict``. Gradients may also be bf16
    (``param.grad_dtype = torch.bfloat16``), and the moments bf16 or int8 (see
    :mod:`sapiens_plugin.core.streaming.moments`); neither ever exists in fp32 as a
    whole. A ``state_dict`` of any moment type loads into an optimizer of any other. A
    parameter has no state before its first update.

    Args:
        params: Parameters or groups, fp32 and contiguous on the CPU.
        lr: Learning rate.
        betas: Decay of the first and of the second moment a step.
        eps: Added to the root of the second moment.
        weight_decay: Decoupled weight decay, relative to ``lr``.
        moment_dtype: ``'float32'``, ``'bfloat16'`` or ``'int8'``: 8, 4 or 2.06 bytes a
            parameter for both moments.

    Raises:
        InputError: ``moment_dtype`` is none of these, an argument is unknown, or a
            parameter is on another device, of another type or not contiguous.
    """

    def __init__(
        self,
        params: Iterable,
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        moment_dtype: str = 'float32',
        **others,
    ):
        if others:
            raise InputError(
                f'HostAdamW does not know {", ".join(others)}. Where a base config '
                'gives arguments to another optimizer, start afresh with '
                "optimizer=dict(_delete_=True, type='sapiens_plugin.HostAdamW', ...)."
            )
        self._encoding = get_encoding(moment_dtype)
        self._moment_dtype = moment_dtype
        self._pending: dict[Tensor, tuple[Tensor, _Settings]] = {}
        self._being_updated: set[Tensor] = set()
        self._changed = threading.Condition()
        # A stock AdamW that loads these groups goes on with the same arithmetic.
        defaults = dict(
            lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True
        )
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict) -> None:
        """Add a group of parameters.

        Raises:
            InputError: A parameter is not an fp32, contiguous one on the CPU.
        """
        super().add_param_group(param_group)
        for i, param in enumerate(param_group['params']):
            if (
                param.device.type != 'cpu'
                or param.dtype != torch.float32
                or not param.is_contiguous()
            ):
                raise InputError(
                    f'{_name_of(param_group, i)}, {tuple(param.shape)}, is '
                    f'{param.dtype} on {param.device}'
                    f'{"" if param.is_contiguous() else " and not contiguous"}. '
                    'HostAdamW updates contiguous float32 parameters on the CPU; use '
                    'torch.optim.AdamW for others.'
                )

    @property
    def moment_dtype(self) -> str:
        """What the moments are kept in; may be set as long as there are none."""
        return self._moment_dtype

    @moment_dtype.setter
    def moment_dtype(self, moment_dtype: str) -> None:
        if moment_dtype == self._moment_dtype:
            return
        if self.state:
            raise InputError(
                f'The moments of this optimizer are {self._moment_dtype} already, and '
                f'cannot become {moment_dtype}. Save its state, and load it into an '
                f"optimizer with moment_dtype='{moment_dtype}'."
            )
        self._encoding = get_encoding(moment_dtype)
        self._moment_dtype = moment_dtype

    @property
    def has_pending(self) -> bool:
        """Whether a scheduled update has not been applied to the end."""
        with self._changed:
            return bool(self._pending or self._being_updated)

    def step(self, closure: Callable | None = None):
        """Update every parameter that has a gradient, at once. Gradients stay."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.flush()
        for param, settings in self._params_with_grad(grad_factor=None):
            self._update(param, param.grad, settings)
        return loss

    def schedule(self, *, grad_factor: Tensor | float | None = None) -> None:
        """Take the gradients off the parameters and note a step, to apply at flush.

        What is pending is flushed first. Until the flush the gradients must stay as
        they are; it may scale them in place. Changes of learning rate, weight decay and
        the like from here on count for later steps only.

        Args:
            grad_factor: Multiplies the gradients: the coefficient of gradient clipping.
        """
        self.flush()
        factor = None if grad_factor is None else float(grad_factor)
        with self._changed:
            for param, settings in self._params_with_grad(grad_factor=factor):
                self._pending[param] = param.grad, settings
                param.grad = None

    def flush(self, params: Iterable[nn.Parameter] | None = None) -> None:
        """Apply what is pending, each update once; return when it has been applied.

        Another thread may flush other parameters at the same time. Those it has already
        begun are waited for.

        Args:
            params: Parameters to update. By default all.
        """
        with self._changed:
            wanted = (
                [*self._pending, *self._being_updated]
                if params is None
                else list(params)
            )
        for param in wanted:
            with self._changed:
                if param not in self._pending:
                    continue
                grad, settings = self._pending.pop(param)
                self._being_updated.add(param)
            try:
                self._update(param, grad, settings)
            finally:
                with self._changed:
                    self._being_updated.remove(param)
                    self._changed.notify_all()
        with self._changed:
            self._changed.wait_for(lambda: self._being_updated.isdisjoint(wanted))

    def state_dict(self) -> dict:
        """Return the state after flushing. It refers to the tensors, not to copies."""
        self.flush()
        return super().state_dict()

    def load_state_dict(self, state_dict: Mapping) -> None:
        """Copy a state into memory of this optimizer, in its own moment type.

        Works tensor by tensor, and keeps none of the given ones: they may be mapped
        from a file.

        Args:
            state_dict: State of a HostAdamW or a stock AdamW over the same parameters.

        Raises:
            InputError: The groups or shapes differ, or the state is not AdamW's. The
                optimizer is then as before.
        """
        self.flush()
        groups, saved_groups = self.param_groups, state_dict['param_groups']
        _check_groups(groups, saved_groups)
        loads = []
        for group, saved_group in zip(groups, saved_groups, strict=True):
            for i, key in enumerate(saved_group['params']):
                param, saved = group['params'][i], state_dict['state'].get(key)
                if saved:
                    _check_state(_name_of(group, i), param, saved)
                loads.append((param, saved))

        for group, saved_group in zip(groups, saved_groups, strict=True):
            settings = {k: v for k, v in saved_group.items() if k != 'params'}
            group.update(deepcopy(settings))
        self.state.clear()
        for param, saved in loads:
            if saved:
                self.state[param] = self._copy_of(param, saved)

    def _params_with_grad(
        self, *, grad_factor: float | None
    ) -> Iterator[tuple[Tensor, _Settings]]:
        """Yield every parameter that has a gradient, with its settings."""
        for group in self.param_groups:
            settings = _Settings(
                float(group['lr']),
                tuple(group['betas']),
                group['eps'],
                group['weight_decay'],
                grad_factor,
            )
            for param in group['params']:
                if param.grad is not None:
                    yield param, settings

    @torch.no_grad()
    def _update(self, param: Tensor, grad: Tensor, settings: _Settings) -> None:
        state = self.state[param]
        if not state:
            state['step'] = torch.tensor(0.0)
            state.update(self._encoding.allocate(param))
        if self.moment_dtype == 'float32' and grad.dtype == torch.float32:
            _update_whole(param, grad, state, settings)
        else:
            _update_in_chunks(param, grad, state, settings, self._encoding)

    def _copy_of(self, param: Tensor, saved: Mapping) -> dict[str, Tensor]:
        """Return a parameter's saved state in the moment type of this optimizer."""
        state = self._encoding.allocate(param)
        state['step'] = torch.tensor(float(saved['step']))
        source = encoding_of(saved)
        if source == self._encoding:
            for key in source.shapes(param):
                state[key].copy_(saved[key])
        else:
            chunks = zip(
                source.chunks(saved), self._encoding.chunks(state), strict=True
            )
            for index, (given, own) in enumerate(chunks):
                rest = min(CHUNK, param.numel() - index * CHUNK)
                buffers = torch.zeros(2, _whole_blocks(rest))
                source.decode(given, *buffers)
                self._encoding.encode(own, *buffers, index=index, step=0, decay=1.0)
        for value in saved.values():
            if isinstance(value, Tensor):  # step may be a number
                release_pages(value)
        return state


def _update_whole(
    param: Tensor, grad: Tensor, state: dict[str, Tensor], settings: _Settings
) -> None:
    """Update through PyTorch's own fused kernel: everything is in fp32."""
    grad = grad.contiguous()  # the kernel takes for granted that layouts agree
    if settings.grad_factor is not None:
        grad.mul_(settings.grad_factor)
    adamw(
        [param],
        [grad],
        [state['exp_avg']],
        [state['exp_avg_sq']],
        [],
        [state['step']],
        fused=True,
        amsgrad=False,
        beta1=settings.betas[0],
        beta2=settings.betas[1],
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        eps=settings.eps,
        maximize=False,
    )


def _update_in_chunks(
    param: Tensor,
    grad: Tensor,
    state: dict[str, Tensor],
    settings: _Settings,
    encoding: Encoding,
) -> None:
    """Update a chunk at a time, with only the chunk in fp32."""
    state['step'] += 1
    chunks = zip(
        param.detach().view(-1).split(CHUNK),
        grad.reshape(-1).split(CHUNK),
        encoding.chunks(state),
        strict=True,
    )
    numbered = list(enumerate(chunks))

    @torch.no_grad()
    def update(share: list[tuple[int, tuple]]) -> None:
        step, (beta1, beta2) = int(state['step']), settings.betas
        scratch = torch.empty(3, _whole_blocks(min(param.numel(), CHUNK)))
        for index, (weights, given_grads, moments) in share:
            size = len(weights)
            exp_avg, exp_avg_sq, grads = scratch[:, : _whole_blocks(size)]
            encoding.decode(moments, exp_avg, exp_avg_sq)
            grads = grads[:size].copy_(given_grads)
            if settings.grad_factor is not None:
                grads.mul_(settings.grad_factor)
            torch._fused_adamw_(
                [weights],
                [grads],
                [exp_avg[:size]],
                [exp_avg_sq[:size]],
                [],
                [state['step']],
                amsgrad=False,
                lr=settings.lr,
                beta1=beta1,
                beta2=beta2,
                weight_decay=settings.weight_decay,
                eps=settings.eps,
                maximize=False,
            )
            encoding.encode(
                moments, exp_avg, exp_avg_sq, index=index, step=step, decay=beta2
            )

    pool, workers = _pool()
    shares = (numbered[i::workers] for i in range(min(workers, len(numbered))))
    for _ in pool.map(update, shares):
        pass  # raises what a worker raised


@functools.cache
def _pool() -> tuple[ThreadPoolExecutor, int]:
    """Return threads that each work alone on PyTorch's operations, and their number.

    An operation on a chunk takes some 30 µs. Sharing it costs as much where idle
    threads sleep (``OMP_WAIT_POLICY=PASSIVE``), so the threads share the chunks.
    """
    workers = torch.get_num_threads()
    started = threading.Barrier(workers + 1)

    def work_alone() -> None:
        torch.get_num_threads()  # lets PyTorch set up the thread, to the usual number
        torch.set_num_threads(1)
        started.wait()

    pool = ThreadPoolExecutor(workers, 'host_adamw', initializer=work_alone)
    for _ in range(workers):
        pool.submit(int)
    started.wait()
    torch.set_num_threads(workers)  # holds for this thread and those yet to come
    return pool, workers


def _whole_blocks(size: int) -> int:
    """Round a number of elements up to whole blocks."""
    return -(-size // BLOCK) * BLOCK


def _name_of(group: Mapping, i: int) -> str:
    """Name a parameter for a message."""
    names = group.get('param_names')
    return f'Parameter {names[i] if names else i}'


def _check_groups(groups: list[dict], saved_groups: list[Mapping]) -> None:
    remedy = (
        'The state must come from the same model and optimizer settings; to start with '
        'fresh moments, load the weights alone.'
    )
    if len(groups) != len(saved_groups):
        raise InputError(
            f'The optimizer state to load has {len(saved_groups)} parameter groups, '
            f'this optimizer has {len(groups)}. {remedy}'
        )
    for number, (group, saved) in enumerate(zip(groups, saved_groups, strict=True)):
        title = f'Parameter group {group.get("group_name", number)}'
        if len(group['params']) != len(saved['params']):
            raise InputError(
                f'{title} has {len(saved["params"])} parameters in the optimizer state '
                f'to load and {len(group["params"])} in this optimizer. {remedy}'
            )
        for option in 'amsgrad', 'maximize':
            if saved.get(option):
                raise InputError(
                    f'{title} of the optimizer state to load has {option}=True, which '
                    'HostAdamW cannot do. Go on with torch.optim.AdamW.'
                )


def _check_state(name: str, param: Tensor, saved: Mapping) -> None:
    try:
        shapes = encoding_of(saved).shapes(param)
        saved_shapes = {key: tuple(saved[key].shape) for key in shapes}
        float(saved['step'])
    except KeyError as error:
        raise InputError(
            f'{name} has no {error} in the optimizer state to load, but '
            f'{", ".join(map(str, saved))}: this is not the state of an AdamW.'
        ) from error
    if shapes != saved_shapes:
        raise InputError(
            f'{name} is {tuple(param.shape)}, which makes its moments {shapes}; in the '
            f'optimizer state to load they are {saved_shapes}. The state must come '
            'from the same model.'
        )
