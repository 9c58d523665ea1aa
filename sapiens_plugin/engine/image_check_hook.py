"""Notice missing images before the first step, not hours into an epoch."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import Dataset

from sapiens_plugin.errors import InputError
from sapiens_plugin.registry import HOOKS


@HOOKS.register_module()
class ImageCheckHook(Hook):
    """Check that every image the annotations name is there.

    Directories are listed once, so COCO's 118 k images take seconds. That an image
    decodes shows only when it is read
    (:class:`~sapiens_plugin.datasets.load_image.LoadImage`).
    """

    def before_train(self, runner: Runner) -> None:
        """Check the training images, and those of validation where there is any.

        Raises:
            InputError: Images are missing; the message names the first ones.
        """
        _check(runner.train_dataloader.dataset)
        if runner.val_loop is not None:
            _check(runner.val_dataloader.dataset)

    def before_test(self, runner: Runner) -> None:
        """Check the test images.

        Raises:
            InputError: Images are missing; the message names the first ones.
        """
        _check(runner.test_dataloader.dataset)


def _check(dataset: Dataset) -> None:
    for part in _parts(dataset):
        _check_part(part)


def _parts(dataset: Dataset) -> Iterator[BaseDataset]:
    """Yield the data sets inside wrappers such as ``CombinedDataset``."""
    inner = getattr(dataset, 'datasets', None) or getattr(dataset, 'dataset', None)
    if inner is None:
        yield dataset
        return
    for part in inner if isinstance(inner, list | tuple) else [inner]:
        yield from _parts(part)


def _check_part(dataset: BaseDataset) -> None:
    paths = {dataset.get_data_info(i)['img_path'] for i in range(len(dataset))}
    missing = sorted(_missing(paths))
    if missing:
        shown = ', '.join(missing[:3]) + (', …' if len(missing) > 3 else '')
        raise InputError(
            f'{len(missing)} of {len(paths)} images that {dataset.ann_file} names are '
            f'missing: {shown}. Fetch them (COCO: `python3 tools/download_coco.py '
            '--repair`), or take their entries out of the annotation file.'
        )


def _missing(paths: Iterable[str]) -> Iterable[str]:
    listings: dict[Path, set[str]] = {}
    for text in paths:
        path = Path(text)
        if path.parent not in listings:
            listings[path.parent] = (
                {entry.name for entry in os.scandir(path.parent)}
                if path.parent.is_dir()
                else set()
            )
        if path.name not in listings[path.parent]:
            yield text
