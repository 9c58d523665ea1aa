"""Looking into data sets that hold others."""

from collections.abc import Iterator

from mmengine.dataset import BaseDataset
from torch.utils.data import Dataset


def levels(dataset: Dataset) -> Iterator[Dataset]:
    """Yield a data set and all that are inside it, in wrappers and combinations."""
    yield dataset
    inner = getattr(dataset, 'datasets', None) or getattr(dataset, 'dataset', None)
    if inner is not None:
        for part in inner if isinstance(inner, list | tuple) else [inner]:
            yield from levels(part)


def parts(dataset: Dataset) -> Iterator[BaseDataset]:
    """Yield the data sets that were read from annotation files."""
    for level in levels(dataset):
        if isinstance(level, BaseDataset) and level.ann_file:
            yield level


def image_paths(part: BaseDataset) -> set[str]:
    """Return the paths of all images that the samples of a data set are cut from."""
    # MMPose's own get_data_info copies the description of the skeleton every time.
    return {BaseDataset.get_data_info(part, i)['img_path'] for i in range(len(part))}
