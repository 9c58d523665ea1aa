"""Gradients of a streamed step, compared with those of an ordinary one."""

import statistics
from collections.abc import Callable, Iterable

import torch
from measuring.device import fresh_peak
from measuring.part_report import Report
from measuring.work import accumulate, make_work
from streaming import COMPACT, Pose, Work, draw_batch, make_chain, memory_step
from torch import Tensor, nn

from sapiens_plugin.core.streaming import memory
from sapiens_plugin.core.streaming.host_adamw import HostAdamW

Batch = list[tuple[Tensor, Tensor]]


def run(spec: dict, report: Report) -> None:
    """Compare every precision and mode, and the optimizers."""
    device = torch.device(spec['device'])
    for precision, strict in spec['kinds']:
        name = precision + (', deterministic' if strict else '')
        work = make_work(spec, precision=precision)
        with report.part(name):
            torch.use_deterministic_algorithms(strict)
            batch = draw_batch(work)
            model = Pose(work).to(work.device)
            expected = _resident_gradients(model, work, batch)
            again = _resident_gradients(model, work, batch)
            norm = nn.utils.get_total_norm(expected).item()
            found = dict(resident_again=_compare(again, expected), norm=norm)
            del model, again
            fresh_peak(device)
            host = Pose(work)  # with the same weights
            for mode, dtypes in (('exact', {}), ('compact', COMPACT)):
                compared = _compare_streamed(host, work, batch, expected, dtypes)
                found[f'{mode} at {work.budget} MiB'] = compared
                report.add(**{name: found})
                fresh_peak(device)
            found['optimizers'] = _compare_optimizers(host, expected, device)
            report.add(**{name: found})
            del host, expected
        fresh_peak(device)
    torch.use_deterministic_algorithms(False)


def _resident_gradients(model: Pose, work: Work, batch: Batch) -> list[Tensor]:
    model.zero_grad()
    accumulate(model, work, batch)
    return [param.grad.clone() for param in model.parameters()]


def _compare_streamed(
    model: Pose, work: Work, batch: Batch, expected: list[Tensor], dtypes: dict
) -> dict:
    """Make a streamed step without an update."""
    dtypes = {key: dtype for key, dtype in dtypes.items() if key != 'moment_dtype'}
    job = memory_step(model, work, **dtypes)
    layout = memory.plan_layout(job, budget_mib=work.budget)
    chain = make_chain(model, work, **vars(layout), **dtypes)
    try:
        norms = chain.accumulate(
            [images for images, _ in batch],
            lambda x, j: model.loss(x, batch[j][1]),
            seed=0,
        )
    finally:
        chain.close()
    ordered = torch.stack([norms[param] for param in model.parameters()])
    compared = _compare((param.grad for param in model.parameters()), expected)
    for param in model.parameters():
        param.grad = None
    norm = torch.linalg.vector_norm(ordered).item()
    return dict(compared, norm=norm, layout=vars(layout))


def _compare_optimizers(model: Pose, grads: list[Tensor], device: torch.device) -> dict:
    """Make steps of HostAdamW, and of PyTorch's AdamW on the CPU and on the GPU."""
    some = list(zip(model.parameters(), grads, strict=True))[-40:]
    settings = dict(lr=1e-3, weight_decay=0.1)

    def stepped(make: Callable, device: torch.device | str, **more) -> list[Tensor]:
        params = [nn.Parameter(p.detach().clone().to(device)) for p, _ in some]
        optimizer = make(params, **settings, **more)
        for turn in range(3):
            for param, (_, grad) in zip(params, some, strict=True):
                param.grad = grad.clone().to(device) * (1 + turn)
            optimizer.step()
        return [param.detach().cpu() for param in params]

    ours, stock = stepped(HostAdamW, 'cpu'), torch.optim.AdamW
    found = dict(cpu_fused=_compare(ours, stepped(stock, 'cpu', fused=True)))
    if device.type == 'cuda':
        for kind in ('fused', 'foreach'):
            theirs = stepped(stock, device, **{kind: True})
            found[f'cuda_{kind}'] = _compare(ours, theirs)
    return found


def _compare(got: Iterable[Tensor], expected: list[Tensor]) -> dict:
    """Count equal tensors, and compute norms of differences over those expected."""
    equal, errors = 0, []
    for one, other in zip(got, expected, strict=True):
        one = one.to(other.device).float()
        equal += bool(torch.equal(one, other))
        scale = other.norm().item()
        difference = (one - other).norm().item()
        errors.append(difference / scale if scale else one.norm().item())
    return dict(
        tensors=len(errors),
        equal=equal,
        worst=max(errors),
        median=statistics.median(errors),
        finite=all(error < float('inf') for error in errors),  # also false for NaN
    )
