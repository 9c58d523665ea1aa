"""Decoding image files right, or saying why not.

OpenCV decodes ordinary JPEGs, to the very pixels that MMPose gets. The rest is not for
it: it shows what transparency hides, turns some formats by their EXIF orientation and
others not, takes a JPEG with a tail of zeros for a whole one, and a few wrong bytes in
a PNG make it ask for gigabytes. So Pillow reads each header first, in a hundredth of
the time, and decodes all that is no JPEG.
"""

import io
import stat
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageChops, UnidentifiedImageError

from sapiens_plugin.errors import UnreadableImage

from .check import jpeg_has_end

LARGEST_FILE = 1 << 30  # bytes; twice what the largest picture takes unpacked
# No parsers of rarer kinds for files from anywhere.
_PARSERS = ('JPEG', 'PNG', 'WEBP', 'BMP', 'TIFF')
FORMATS = (*_PARSERS, 'MPO')  # a JPEG with several pictures
_JPEG = ('JPEG', 'MPO')
_HIDDEN = (124, 116, 104)  # RGB: the mean that the model subtracts, so nothing
_ORIENTATION = 0x0112  # the EXIF tag
# What Pillow raises for files that are none of its formats, or damaged.
BROKEN = (
    OSError,
    ValueError,
    TypeError,
    SyntaxError,
    EOFError,
    LookupError,
    ArithmeticError,
    AttributeError,
    NotImplementedError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
# By EXIF orientation: what makes the picture upright.
_TURNS = {
    2: lambda picture: cv2.flip(picture, 1),
    3: lambda picture: cv2.rotate(picture, cv2.ROTATE_180),
    4: lambda picture: cv2.flip(picture, 0),
    5: cv2.transpose,
    6: lambda picture: cv2.rotate(picture, cv2.ROTATE_90_CLOCKWISE),
    7: lambda picture: cv2.rotate(cv2.transpose(picture), cv2.ROTATE_180),
    8: lambda picture: cv2.rotate(picture, cv2.ROTATE_90_COUNTERCLOCKWISE),
}


def read_file(path: str | Path) -> bytes:
    """Read the bytes of an image file.

    Raises:
        UnreadableImage: It is missing, no file, too large for an image, or cannot be
            read.
    """
    try:
        status = Path(path).stat()
        # A pipe or a device would never end.
        if not stat.S_ISREG(status.st_mode):
            reason = 'it is not a file'
        elif status.st_size > LARGEST_FILE:
            reason = f'{status.st_size:,} bytes are too many for an image'
        else:
            return Path(path).read_bytes()
    except FileNotFoundError:
        reason = 'it is missing'
    except OSError as error:
        reason = error.strerror or str(error)
    except ValueError as error:  # no system has such a name
        reason = str(error)
    raise UnreadableImage(str(path), reason)


def decode(
    data: bytes, path: str | Path, *, labelled_size: tuple[int, int] | None = None
) -> np.ndarray:
    """Decode an image as the labels were drawn on it.

    Grey, palettes, 16 bits and CMYK become 8-bit BGR; what is transparent becomes
    grey. A picture with an EXIF orientation is turned upright, unless it has the
    labels' size only as it lies in the file (TIFF: always).

    Args:
        data: The file.
        path: Its name, for errors.
        labelled_size: Width and height that the annotation file gives, px.

    Returns:
        BGR, (H, W, 3) uint8.

    Raises:
        UnreadableImage: It is cut short, damaged, too large, or no image of a kind that
            is read.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_PARSERS) as image:
            if reason := _why_refused(image, data):
                raise UnreadableImage(str(path), reason)
            orientation = orientation_of(image)
            picture = _pixels(image, data)
    except UnidentifiedImageError:
        what = 'it is not an image' if data else 'it is empty'
        raise UnreadableImage(str(path), what) from None
    except UnreadableImage:
        raise
    except Image.DecompressionBombError:
        raise UnreadableImage(str(path), 'it has too many pixels') from None
    except (*BROKEN, cv2.error) as error:
        raise UnreadableImage(str(path), f'it is damaged ({error})') from None
    height, width = picture.shape[:2]
    if orientation > 4 and labelled_size == (width, height) != (height, width):
        return picture
    return _TURNS[orientation](picture) if orientation > 1 else picture


def _why_refused(image: Image.Image, data: bytes) -> str:
    """What keeps an image from being decoded; '' for nothing."""
    width, height = image.size
    if image.format in _JPEG:
        # Each 8 x 8 px take a bit at least. A few bytes could ask for much memory.
        if 64 * 8 * len(data) < width * height:
            return f'{len(data):,} bytes are too few for {width:,} x {height:,} px'
        if not jpeg_has_end(data):
            return 'it is cut short'
    return ''


def _pixels(image: Image.Image, data: bytes) -> np.ndarray:
    """Decode to BGR (H, W, 3), as the file has it."""
    if image.format in _JPEG and image.mode in ('L', 'RGB'):
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        if picture is None:
            raise ValueError('it does not decode')
        return picture
    if image.mode.startswith('I;16'):
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)
    return cv2.cvtColor(np.asarray(_rgb(image)), cv2.COLOR_RGB2BGR)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == 'CMYK' and image.format in _JPEG and 'adobe' not in image.info:
        # Adobe writes CMYK inverted, and Pillow takes every JPEG for Adobe's.
        return ImageChops.invert(image).convert('RGB')
    if image.mode in ('I', 'F'):
        raise ValueError('32 bits a pixel are not an image to look at')
    if image.has_transparency_data:
        image = image.convert('RGBA')
        ground = Image.new('RGBA', image.size, _HIDDEN)
        image = Image.alpha_composite(ground, image)
    return image.convert('RGB')


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation that is left to be undone, 1 to 8; 1 is upright."""
    # Pillow turns TIFF itself, which have no such entry. A PNG without it would be
    # decoded to its end in search of the tag.
    if 'exif' not in image.info:
        return 1
    value = image.getexif().get(_ORIENTATION, 1)
    return value if value in _TURNS else 1
