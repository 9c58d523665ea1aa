"""Going on where an image cannot be read and no other may take its place."""

from collections.abc import Callable

import numpy as np

from sapiens_plugin.errors import UnreadableImage

_BLANK = (64, 64, 3)  # beyond a picture's edges all is black too


class BlankUnreadable:
    """A pipeline that reads a black picture where it cannot read the right one.

    A validation then goes on, and finds nobody in it. The sample's ``data_samples``
    carry the metainfo ``skipped_images``, a list of ``(path, reason)``.

    Args:
        pipeline: The transforms.
    """

    def __init__(self, pipeline: Callable[[dict], dict]):
        self.pipeline = pipeline

    def __call__(self, data_info: dict) -> dict:
        """Make a sample."""
        try:
            return self.pipeline(dict(data_info))
        except UnreadableImage as error:
            sample = self.pipeline({**data_info, 'img': np.zeros(_BLANK, np.uint8)})
            if 'data_samples' in sample:  # the last of several pipelines packs them
                skipped = [(error.path, error.reason)]
                sample['data_samples'].set_metainfo(dict(skipped_images=skipped))
            return sample
