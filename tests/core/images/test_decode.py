import io
import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from sapiens_plugin.core.images.check import jpeg_has_end
from sapiens_plugin.core.images.decode import (
    decode,
    read_file,
)
from sapiens_plugin.errors import UnreadableImage

WIDTH, HEIGHT = 96, 64


def photograph(size=(WIDTH, HEIGHT)):
    """Smooth, so that JPEG keeps it, and unlike its own mirror images."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(30, 226, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encode(image, file_format, **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def bgr(image):
    return np.asarray(image.convert('RGB'))[:, :, ::-1]


def difference(picture, image):
    """Mean distance of a decoded picture from what it should be, in levels."""
    expected = bgr(image)
    assert picture.shape == expected.shape and picture.dtype == np.uint8
    assert picture.flags.c_contiguous
    return np.abs(picture.astype(int) - expected.astype(int)).mean()


def refusal(data, **options):
    with pytest.raises(UnreadableImage) as error:
        decode(data, 'a.jpg', **options)
    assert error.value.path == 'a.jpg'
    return error.value.reason


@pytest.mark.parametrize(
    'data',
    [
        encode(photograph(), 'JPEG', quality=90),
        encode(photograph(), 'JPEG', quality=90, progressive=True, subsampling=2),
        encode(photograph(), 'JPEG', restart_marker_rows=1),
        encode(photograph().convert('L'), 'JPEG'),
        encode(photograph(), 'PNG'),
        encode(photograph().convert('L'), 'PNG'),
        encode(photograph().convert('P'), 'PNG'),
        encode(photograph().convert('1'), 'PNG'),
        encode(photograph(), 'BMP'),
        encode(photograph(), 'WEBP'),
    ],
)
def test_what_is_ordinary_comes_as_mmpose_reads_it(data):
    stock = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(decode(data, 'a'), stock)


def test_real_photographs_come_as_mmpose_reads_them(coco_mini):
    for path in coco_mini.glob('*.jpg'):
        data = read_file(path)
        stock = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert np.array_equal(decode(data, path), stock)
        for cut in (1, 2, 1000, len(data) // 2):
            assert refusal(data[:-cut])
            assert 'cut short' in refusal(data[:-cut].ljust(len(data), b'\0'))


def without_adobe_marker(data):
    place = data.index(b'\xff\xee')
    length = int.from_bytes(data[place + 2 : place + 4], 'big')
    return data[:place] + data[place + 2 + length :]


def test_cmyk_is_read_with_and_without_adobes_mark():
    image = photograph()
    inks = image.convert('CMYK')
    inverted = encode(inks, 'JPEG', quality=98)  # by Pillow, as Adobe does
    assert difference(decode(inverted, 'a'), image) < 2
    plain = encode(Image.eval(inks, lambda ink: 255 - ink), 'JPEG', quality=98)
    assert difference(decode(without_adobe_marker(plain), 'a'), image) < 2
    assert difference(decode(encode(inks, 'TIFF'), 'a'), image) < 2


@pytest.mark.parametrize('suffix', ['.png', '.tif'])
@pytest.mark.parametrize('channels', [1, 3])
def test_16_bits_are_scaled_and_not_cut(suffix, channels):
    levels = np.linspace(0, 65_535, WIDTH * HEIGHT).astype(np.uint16)
    picture = levels.reshape(HEIGHT, WIDTH)
    if channels == 3:
        picture = np.stack([picture, picture[::-1], picture[:, ::-1]], axis=-1)
    _, data = cv2.imencode(suffix, picture)
    expected = picture / 257 if channels == 3 else picture[:, :, None] / 257
    assert np.abs(decode(data.tobytes(), 'a') - expected).max() <= 1


@pytest.mark.parametrize('file_format', ['PNG', 'WEBP', 'TIFF'])
def test_what_is_transparent_is_grey(file_format):
    colours = np.full((HEIGHT, WIDTH, 4), 255, np.uint8)
    colours[:, :, :3] = (10, 200, 90)
    colours[:, WIDTH // 2 :, 3] = 0
    options = {'lossless': True} if file_format == 'WEBP' else {}
    picture = decode(encode(Image.fromarray(colours), file_format, **options), 'a')
    assert (picture[:, : WIDTH // 2] == (90, 200, 10)).all()
    assert (picture[:, WIDTH // 2 :] == (104, 116, 124)).all()


def test_transparent_colours_of_palettes_and_grey_are_grey():
    palette = Image.new('P', (WIDTH, HEIGHT))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.paste(1, (0, 0, 10, 10))
    picture = decode(encode(palette, 'PNG', transparency=1), 'a')
    assert tuple(picture[0, 0]) == (104, 116, 124)
    assert tuple(picture[-1, -1]) == (30, 20, 10)
    grey = Image.merge('LA', [Image.new('L', (8, 8), v) for v in (77, 255)])
    assert (decode(encode(grey, 'PNG'), 'a') == 77).all()


def upright(orientation):
    image = photograph()
    image.getexif()[0x0112] = orientation
    return ImageOps.exif_transpose(image)


def with_orientation(orientation, file_format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {'WEBP': {'lossless': True}, 'JPEG': {'quality': 98}}
    return encode(photograph(), file_format, exif=exif, **options.get(file_format, {}))


@pytest.mark.parametrize('file_format', ['JPEG', 'PNG', 'WEBP', 'TIFF'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_pictures_are_turned_upright(file_format, orientation):
    data = with_orientation(orientation, file_format)
    expected = upright(orientation)
    # Without a size, and with one that is neither of the two, so it is too.
    for size in (None, expected.size, (1, 2)):
        assert difference(decode(data, 'a', labelled_size=size), expected) < 2


@pytest.mark.parametrize('file_format', ['JPEG', 'PNG', 'WEBP'])
@pytest.mark.parametrize('orientation', [5, 6, 7, 8])
def test_pictures_that_were_labelled_unturned_stay_so(file_format, orientation):
    data = with_orientation(orientation, file_format)
    picture = decode(data, 'a', labelled_size=(WIDTH, HEIGHT))
    assert difference(picture, photograph()) < 2


@pytest.mark.parametrize('size', [(100_000, 40), (40, 100_000)])
def test_long_pictures_are_read_and_can_be_cropped(size):
    width, height = size
    picture = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    data = cv2.imencode('.png', picture)[1].tobytes()
    assert np.array_equal(decode(data, 'a'), picture)
    # Until OpenCV 4 nothing longer than 32,766 px could be.
    matrix = np.float32([[1, 0, 20 - width], [0, 1, 20 - height]])
    end = cv2.warpAffine(picture, matrix, (20, 20))
    assert np.array_equal(end, picture[-20:, -20:])


def test_absurd_sizes_take_no_memory(monkeypatch):
    def decoded(*args):
        raise AssertionError('it was decoded')

    png = bytearray(encode(photograph(), 'PNG'))
    png[16:24] = struct.pack('>II', 20_000, 20_000)
    png[29:33] = struct.pack('>I', zlib.crc32(png[12:29]))
    jpeg = bytearray(encode(photograph(), 'JPEG'))
    size = jpeg.index(b'\xff\xc0') + 5
    jpeg[size : size + 4] = struct.pack('>HH', 10_000, 10_000)
    monkeypatch.setattr(cv2, 'imdecode', decoded)
    assert refusal(bytes(png)) == 'it has too many pixels'
    assert 'bytes are too few for 10,000 x 10,000 px' in refusal(bytes(jpeg))


@pytest.mark.parametrize('options', [{}, {'optimize': True}, {'progressive': True}])
def test_blank_pictures_have_bytes_enough(options):
    blank = Image.new('L', (3000, 3000))
    assert not decode(encode(blank, 'JPEG', **options), 'a').any()


@pytest.mark.parametrize('file_format', ['JPEG', 'PNG', 'WEBP', 'BMP', 'TIFF'])
def test_every_cut_is_found(file_format):
    options = {'exif': with_thumbnail()} if file_format == 'JPEG' else {}
    data = encode(photograph(), file_format, **options)
    decode(data, 'a')
    for length in {*range(0, len(data) - 4, 97), len(data) - 5, len(data) // 2}:
        if file_format == 'PNG' and length > len(data) - 12:
            continue  # all of the picture is there
        assert refusal(data[:length]), length


def with_thumbnail():
    """EXIF data with a JPEG of its own inside, as cameras write them."""
    exif = Image.Exif()
    exif[0x010E] = encode(photograph((16, 16)), 'JPEG').decode('latin-1')
    return exif


def test_a_jpeg_ends_before_the_film_behind_it():
    data = encode(photograph(), 'JPEG', exif=with_thumbnail())
    film = b'\xff\xda and other marks, of a film'
    assert jpeg_has_end(data + film)
    assert not jpeg_has_end(data[:-2] + b'\0\0' + film)
    assert difference(decode(data + film, 'a'), photograph()) < 6


@pytest.mark.parametrize(
    'data, reason',
    [
        (b'', 'it is empty'),
        (b'<!doctype html>', 'it is not an image'),
        (encode(photograph(), 'GIF'), 'it is not an image'),
        (b'%!PS-Adobe-3.0 EPSF-3.0\n', 'it is not an image'),
        (b'\xff\xd8\xff\xe0', 'it is not an image'),
        (
            encode(Image.fromarray(np.ones((4, 4), np.float32)), 'TIFF'),
            'it is damaged (32 bits a pixel are not an image to look at)',
        ),
    ],
)
def test_what_is_no_image_is_told(data, reason):
    assert refusal(data) == reason


def test_files_that_cannot_be_read_are_told(tmp_path):
    for path, reason in [
        (tmp_path / 'absent.jpg', 'it is missing'),
        (tmp_path, 'it is not a file'),
        (f'{tmp_path}/a\0.jpg', 'embedded null'),
        (tmp_path / ('a' * 5000), 'File name too long'),
    ]:
        with pytest.raises(UnreadableImage) as error:
            read_file(path)
        assert reason in error.value.reason
    huge = tmp_path / 'huge.jpg'
    with huge.open('wb') as file:
        file.truncate((1 << 30) + 1)  # a hole: it takes no room
    with pytest.raises(UnreadableImage, match='1,073,741,825 bytes are too many'):
        read_file(huge)


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='no named pipes here')
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / 'pipe.jpg')
    with pytest.raises(UnreadableImage, match='not a file'):
        read_file(tmp_path / 'pipe.jpg')
