"""A linear warm-up that is counted in optimizer steps."""

from mmengine.optim import LinearLR, OptimWrapper

from sapiens_plugin.engine.utils.accumulation import accumulation
from sapiens_plugin.errors import InputError
from sapiens_plugin.registry import PARAM_SCHEDULERS


@PARAM_SCHEDULERS.register_module()
class WarmupLR(LinearLR):
    """Raise the learning rate linearly over a number of optimizer steps.

    Stock MMEngine counts iterations, which under gradient accumulation are
    micro-batches, and cannot begin such a count at an epoch. This one reads the
    accumulation off the optimizer wrapper. Use it as::

        dict(type='sapiens_plugin.WarmupLR', begin=10, optimizer_steps=500,
             start_factor=1e-3, convert_to_iter_based=True)

    with ``begin`` in epochs, and with :class:`OptimStepParamSchedulerHook`.
    """

    @classmethod
    def build_iter_from_epoch(
        cls,
        *,
        optimizer: OptimWrapper,
        optimizer_steps: int,
        epoch_length: int,
        begin: int = 0,
        end: int,
        **kwargs,
    ) -> 'WarmupLR':
        """Build from an epoch-based config; MMEngine gives the lengths.

        Args:
            optimizer: The optimizer wrapper.
            optimizer_steps: Length of the warm-up.
            epoch_length: Iterations (micro-batches) in an epoch.
            begin: Epoch in which the warm-up starts.
            end: Last epoch of the training; a longer warm-up is cut there.
            **kwargs: ``start_factor`` and ``end_factor`` of
                :class:`mmengine.optim.LinearLR`.

        Raises:
            InputError: ``optimizer_steps`` is below 2, so there is no line to draw.
        """
        if optimizer_steps < 2:
            raise InputError(
                f'WarmupLR: optimizer_steps={optimizer_steps} is below 2; take the '
                'warm-up out of param_scheduler instead.'
            )
        counts = accumulation(optimizer)
        # From the last update before this epoch on: where accumulation runs across the
        # epoch's beginning, the first update in it would else be at the full rate.
        start = begin * epoch_length // counts * counts
        # Full at the first micro-batch of the last of these steps.
        length = (optimizer_steps - 1) * counts + 1
        return cls(
            optimizer,
            begin=start,
            end=min(start + length, end * epoch_length),
            by_epoch=False,
            **kwargs,
        )
