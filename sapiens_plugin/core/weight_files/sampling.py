"""A few values of a tensor, spread over all of it, to know it by."""

import torch
from torch import Tensor

# Together at most 1024 values; runs of neighbours, so that few pages of a mapped file
# are read.
_SPANS, _LENGTH = 16, 64


def sample_spans(numel: int) -> list[tuple[int, int]]:
    """Return the runs of elements to take, as (begin, end), of a tensor in row order.

    The first and the last element are among them; of a small tensor, all are.
    """
    if numel <= _SPANS * _LENGTH:
        return [(0, numel)]
    begins = (i * (numel - _LENGTH) // (_SPANS - 1) for i in range(_SPANS))
    return [(begin, begin + _LENGTH) for begin in begins]


def sample(tensor: Tensor) -> Tensor:
    """Copy those elements into a vector in host memory, in the tensor's own type."""
    runs = [torch.arange(*span) for span in sample_spans(tensor.numel())]
    index = torch.cat(runs).to(tensor.device)
    return tensor.detach().flatten()[index].cpu()
