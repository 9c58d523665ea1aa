"""Samples that depend on their seed, not on who makes them or when."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from mmengine.registry import DATASETS
from torch.utils.data import Dataset

from sapiens_plugin.errors import InputError, UnreadableImage

# Images in a row that cannot be read before it is more than a few bad ones.
_TRIES = 20


class SeededDataset(Dataset):
    """Make each sample of a data set with random numbers of its own.

    Augmentation then is the same whatever the number of workers, and in a resumed run.
    ``ResumableTrainLoop`` puts this around its data set.

    In the place of a sample whose image cannot be read comes another one, chosen by
    the same seed. Its ``data_samples`` carry the metainfo ``skipped_images``, a list of
    ``(path, reason)``.

    Args:
        dataset: Config of the data set.

    Attributes:
        dataset: The data set.
    """

    def __init__(self, dataset: dict):
        self.dataset = DATASETS.build(dataset)
        if hasattr(self.dataset, 'full_init'):
            self.dataset.full_init()

    @property
    def metainfo(self) -> dict:
        """What the data set tells of its keypoints."""
        return self.dataset.metainfo

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: tuple[int, int]) -> dict:
        """Make a sample.

        Args:
            place: Its seed, of 64 bits, and its index.

        Raises:
            InputError: Neither its image nor that of others can be read.
        """
        seed, index = place
        skipped = []
        with _seeded(seed):
            while True:
                try:
                    sample = self.dataset[index]
                    break
                except UnreadableImage as error:
                    skipped.append((error.path, error.reason))
                    if len(skipped) == _TRIES:
                        raise InputError(
                            f'{_TRIES} training images in a row cannot be read, the '
                            f'last is {error.path}: {error.reason}. Check where '
                            'train_dataloader.dataset.data_root and data_prefix point, '
                            'and that the disk is well.'
                        ) from error
                index = random.randrange(len(self))
        if skipped:
            sample['data_samples'].set_metainfo(dict(skipped_images=skipped))
        return sample


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the generators that transforms use, and give them their states back."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    # Not torch.manual_seed: GPUs have no part in it.
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
