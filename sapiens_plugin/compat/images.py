"""Images as their labels were drawn: read so, and drawn on so."""

from collections.abc import Callable
from functools import cache, wraps

import mmcv
import numpy as np
from mmengine import fileio
from mmpose.datasets.transforms import LoadImage
from mmpose.structures import PoseDataSample
from mmpose.visualization import PoseLocalVisualizer

from sapiens_plugin.core.images.decode import decode, read_file


@cache
def read_images_as_labelled() -> None:
    """Decode images in one way, wherever they are read.

    Symptom:
        Poses lie beside the persons in the pictures of ``--show-dir`` and
        ``--badcase``, and training learns labels beside the persons, where a picture
        has an EXIF orientation and was labelled unturned. Or a WebP labelled turned.

    Cause:
        OpenCV turns by EXIF, for some formats and whatever the labels say.

    Cure:
        MMPose's ``LoadImage`` decodes by the labels' size, and a picture is drawn on
        as its sample was read.
    """
    LoadImage.transform = checked_read(LoadImage.transform)
    visualizer = PoseLocalVisualizer
    visualizer.add_datasample = checked_draw(visualizer.add_datasample)


def checked_read(transform: Callable) -> Callable:
    """Decode with :func:`~sapiens_plugin.core.images.decode.decode` by default."""

    @wraps(transform)
    def read(self: LoadImage, results: dict) -> dict | None:
        how = (self.color_type, self.imdecode_backend, self.ignore_empty)
        if 'img' not in results and how == ('color', 'cv2', False):
            path, shape = results['img_path'], results.get('img_shape')
            size = tuple(shape[1::-1]) if shape else None
            data = _read(path, self.backend_args)
            results['img'] = decode(data, path, labelled_size=size)
        return transform(self, results)

    return read


def checked_draw(add_datasample: Callable) -> Callable:
    """Draw on the picture as its sample was read, where OpenCV turned it otherwise."""

    @wraps(add_datasample)
    def draw(
        self: PoseLocalVisualizer,
        name: str,
        image: np.ndarray,
        data_sample: PoseDataSample,
        *args,
        **options,
    ) -> np.ndarray:
        size = tuple(data_sample.get('ori_shape', ()))[::-1]
        if size == image.shape[:2] != size[::-1]:
            path = data_sample.img_path
            data = _read(path, None)
            # A crop of that size stays.
            if np.array_equal(image, mmcv.imfrombytes(data, channel_order='rgb')):
                image = decode(data, path, labelled_size=size)[..., ::-1]
        return add_datasample(self, name, image, data_sample, *args, **options)

    return draw


def _read(path: str, backend_args: dict | None) -> bytes:
    if backend_args is None and '://' not in path:
        return read_file(path)
    return fileio.get(path, backend_args=backend_args)
