"""How many micro-batches make an optimizer step."""

from mmengine.optim import OptimWrapper


def accumulation(optim_wrapper: OptimWrapper | dict) -> int:
    """Return the micro-batches of a step, by the optimizer wrapper or its config."""
    if isinstance(optim_wrapper, OptimWrapper):
        return optim_wrapper._accumulative_counts  # MMEngine has no public name for it
    return optim_wrapper.get('accumulative_counts', 1)
