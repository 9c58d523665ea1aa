"""A stage of a chain: something to run, and the parameters it runs on."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

Owner = tuple[nn.Module, str]


def owners_of(*modules: nn.Module) -> list[Owner]:
    """List the parameters of modules and all below them, as (module, name)."""
    return [
        (module, name)
        for root in modules
        for module in root.modules()
        for name, param in module._parameters.items()
        if param is not None
    ]


class Stage:
    """One link of a chain: a callable and the parameters that it reads.

    Args:
        run: Maps the activations of one micro-batch, ``(b, ...)``, to the next ones.
        owners: Where the parameters hang: (module, attribute name) each. A block is
            ``Stage(block, owners_of(block))``; a method of a larger module names just
            the parameters that this method reads.
    """

    def __init__(self, run: Callable[..., Tensor], owners: Sequence[Owner]):
        self.run = run
        self.owners = tuple(owners)
        self.params: tuple[nn.Parameter, ...] = tuple(
            module._parameters[name] for module, name in owners
        )

    @property
    def trains(self) -> bool:
        """Whether any parameter takes a gradient."""
        return any(param.requires_grad for param in self.params)

    @contextmanager
    def running_on(self, tensors: Sequence[Tensor]) -> Iterator[None]:
        """Put other tensors in the place of the parameters for a while.

        The modules' own dictionaries are exchanged, once a visit, because
        ``torch.func.functional_call`` does the same again for every micro-batch.
        """
        for (module, name), tensor in zip(self.owners, tensors, strict=True):
            module._parameters[name] = tensor
        try:
            yield
        finally:
            for (module, name), param in zip(self.owners, self.params, strict=True):
                module._parameters[name] = param
