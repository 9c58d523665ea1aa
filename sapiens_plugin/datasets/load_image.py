"""Reading images, with errors a user can act on."""

import cv2
from mmpose.datasets.transforms import LoadImage as _LoadImage

from sapiens_plugin.errors import InputError
from sapiens_plugin.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadImage(_LoadImage):
    """MMPose's ``LoadImage``, which says which file it could not read and what to do.

    Raises:
        InputError: The image is missing or does not decode.
    """

    def transform(self, results: dict) -> dict:
        """Read ``results['img_path']`` as BGR (H, W, 3), uint8."""
        try:
            return super().transform(results)
        except FileNotFoundError:
            raise InputError(
                f'The image {results["img_path"]} is missing. Fetch it, or take its '
                'entry out of the annotation file.'
            ) from None
        except (AssertionError, OSError, ValueError, cv2.error) as error:
            raise InputError(
                f'The image {results["img_path"]} does not decode: it is damaged, cut '
                'short or not an image. Fetch it again, or take its entry out of the '
                'annotation file.'
            ) from error
