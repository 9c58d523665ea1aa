"""A small streamed model under PyTorch's detector of races between CUDA streams."""

import sys
from collections.abc import Callable

import torch
from measuring.part_report import Report
from torch.cuda import _sanitizer

from sapiens_plugin.core.streaming.chain import Placement, StreamedChain
from sapiens_plugin.core.streaming.courier import Courier
from sapiens_plugin.core.streaming.host_adamw import HostAdamW

PLACEMENTS = (
    dict(spacing=1, slots=2),
    dict(spacing=2, slots=4, boundaries_on_host=True),
    dict(spacing=2, slots=5),
)


def run(spec: dict, report: Report) -> None:
    """Make two steps with each placement; a race is an error."""
    sys.setswitchinterval(5)  # the detector keeps its records for one thread
    sys.path.insert(0, 'tests/helpers')
    from toy_chain import Net, batch

    sanitizer = _sanitizer.CUDASanitizer()
    sanitizer.enable()

    def watched(carry: Callable) -> Callable:
        def run(self: Courier, *args) -> object:
            with sanitizer.dispatch:
                return carry(self, *args)

        return run

    # These run in threads of their own, which the detector would not see.
    Courier._upload = watched(Courier._upload)
    Courier._download = watched(Courier._download)
    device = torch.device(spec['device'])
    for placement in PLACEMENTS:
        with report.part(str(placement)):
            net = Net(depth=6, dims=64, drop=0.3)
            params = list(net.parameters())
            optimizer = HostAdamW(params, lr=1e-2)
            chain = StreamedChain(
                *net.stages(), device=device, placement=Placement(**placement)
            )
            chain.before_use(optimizer.flush)
            try:
                for step in range(2):
                    x, y = ([part.to(device) for part in all] for all in batch([2] * 4))
                    norms = chain.accumulate(
                        x, lambda x, j, n=net, y=y: n.loss(x, y[j]), seed=step
                    )
                    torch.stack([norms[param] for param in params]).cpu()
                    optimizer.schedule()
            finally:
                chain.close()
            report.add(**{f'{placement} races': 'none reported'})
