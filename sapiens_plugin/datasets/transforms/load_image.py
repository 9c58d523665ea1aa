"""Reading images as their labels were drawn, with errors a user can act on."""

from mmpose.datasets.transforms import LoadImage as _LoadImage

from sapiens_plugin.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadImage(_LoadImage):
    """MMPose's ``LoadImage``, as :mod:`sapiens_plugin.compat.images` mends it.

    Ordinary images come out bit for bit as MMPose reads them. Others, see
    :func:`~sapiens_plugin.core.images.decode.decode`; an ``img_shape`` that is there
    already, (H, W) px, is the size that the labels are in. An ``img`` that is there
    already stays.

    Args:
        to_float32: Give float32 and not uint8.
        backend_args: Of MMEngine's file backends, for images that are not files here.

    Raises:
        UnreadableImage: The image is missing, damaged or not an image.
    """

    def __init__(self, *, to_float32: bool = False, backend_args: dict | None = None):
        super().__init__(to_float32=to_float32, backend_args=backend_args)
