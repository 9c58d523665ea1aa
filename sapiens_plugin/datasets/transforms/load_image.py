"""Reading images as their labels were drawn, with errors a user can act on."""

from mmengine import fileio
from mmpose.datasets.transforms import LoadImage as _LoadImage

from sapiens_plugin.core.images.decode import decode, read_file
from sapiens_plugin.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadImage(_LoadImage):
    """MMPose's ``LoadImage`` for pictures of any kind.

    Ordinary images come out bit for bit as MMPose reads them. Others, see
    :func:`~sapiens_plugin.core.images.decode.decode`.

    Args:
        to_float32: Give float32 and not uint8.
        backend_args: Of MMEngine's file backends, for images that are not files here.

    Raises:
        UnreadableImage: The image is missing, damaged or not an image.
    """

    def __init__(self, *, to_float32: bool = False, backend_args: dict | None = None):
        super().__init__(to_float32=to_float32, backend_args=backend_args)

    def transform(self, results: dict) -> dict:
        """Read ``results['img_path']`` as BGR (H, W, 3).

        An ``img_shape`` that is there already, (H, W) px, is the size that the labels
        are in. An ``img`` that is there already stays.
        """
        if 'img' not in results:
            path = results['img_path']
            height_width = results.get('img_shape')
            size = tuple(height_width[1::-1]) if height_width else None
            results['img'] = decode(self._read(path), path, labelled_size=size)
        return super().transform(results)

    def _read(self, path: str) -> bytes:
        if self.backend_args is None and '://' not in path:
            return read_file(path)
        return fileio.get(path, backend_args=self.backend_args)
