"""Samples in an order that can be taken up anywhere."""

from collections.abc import Iterator

from mmengine.dataset import DefaultSampler

from sapiens_plugin.core.streaming.randomness import mix
from sapiens_plugin.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class ResumableSampler(DefaultSampler):
    """A ``DefaultSampler`` that can begin an epoch at any of its samples.

    The order is a function of a seed and the number of the epoch alone. Once
    :meth:`go_to` has been called, as ``ResumableTrainLoop`` does before each epoch, it
    yields ``(seed of the sample, index)``, which a ``SeededDataset`` takes; until then
    it yields indices, for other loops. Its length is that of a whole epoch, wherever
    it begins. Arguments are those of :class:`mmengine.dataset.DefaultSampler`.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._start: int | None = None

    def shorten(self, num_samples: int) -> None:
        """Leave out what comes after so many samples of an epoch in this process."""
        self.num_samples = min(self.num_samples, num_samples)

    def go_to(self, *, seed: int, epoch: int, start: int) -> None:
        """Set the place of the sample to begin with.

        Args:
            seed: The same in all processes.
            epoch: Epochs trained before.
            start: Samples of this epoch and process that had their turn.
        """
        self.seed, self.epoch, self._start = seed, epoch, start

    def __iter__(self) -> Iterator[int] | Iterator[tuple[int, int]]:
        order = list(super().__iter__())[: self.num_samples]
        if self._start is None:
            yield from order
            return
        base = mix(mix(self.seed) + self.epoch)
        for index in order[self._start :]:
            yield mix(base + index), index
