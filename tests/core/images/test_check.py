import os
import random
import threading
import tracemalloc
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sapiens_plugin.core.images import check as image_check
from sapiens_plugin.core.images.check import Expected, Fault, check_images

BLOCK = 1024**2


def picture(*, seed=0, mode='RGB', file_format='JPEG', size=(96, 64), **options):
    """An encoded image with smooth parts and noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    noise = rng.integers(0, 40, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(np.asarray(image) // 2 + noise).convert(mode)
    file = BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def expect(name, data):
    return Expected(name, len(data), zlib.crc32(data))


def unknown(name):
    return Expected(name, size=None, crc=None)


def reason(path: Path, data: bytes, expected: Expected) -> str:
    """What is said of a file with these bytes; '' for nothing."""
    path.write_bytes(data)
    faults = list(check_images(path.parent, [expected], workers=1))
    assert all(fault.name == path.name for fault in faults) and len(faults) < 2
    return faults[0].reason if faults else ''


def test_whole_files_have_no_faults(tmp_path):
    expected = []
    for i in range(300):
        data = picture(seed=i, size=(32, 24))
        (tmp_path / f'{i}.jpg').write_bytes(data)
        known = expect(f'{i}.jpg', data)
        expected.append([known, unknown(known.name)][i % 2])
    assert list(check_images(tmp_path, iter(expected))) == []


def test_each_fault_has_its_reason_and_its_place(tmp_path):
    data = picture()
    flipped = bytearray(data)
    flipped[700] ^= 1
    files = {
        'whole': data,
        'empty': b'',
        'short': data[:-1],
        'long': data + b'+',
        'flipped': bytes(flipped),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    expected = [expect(name, data) for name in (*files, 'absent')]
    crc, other = zlib.crc32(data), zlib.crc32(flipped)
    assert list(check_images(tmp_path, expected)) == [
        Fault('empty', 'is empty'),
        Fault('short', f'has {len(data) - 1:,} bytes, not {len(data):,}'),
        Fault('long', f'has {len(data) + 1:,} bytes, not {len(data):,}'),
        Fault('flipped', f'is damaged: its CRC-32 is {other:08x}, not {crc:08x}'),
        Fault('absent', 'is missing'),
    ]


@pytest.mark.parametrize('change', [-BLOCK - 1, -1, 1, BLOCK + 1])
@pytest.mark.parametrize('length', [2 * BLOCK - 1, 2 * BLOCK, 2 * BLOCK + 1])
def test_sizes_are_compared_over_several_blocks(tmp_path, length, change):
    data = random.Random(0).randbytes(length)
    expected = expect('big.json', data)
    assert reason(tmp_path / 'big.json', data, expected) == ''
    other = data[:change] if change < 0 else data + bytes(change)
    told = reason(tmp_path / 'big.json', other, expected)
    assert told == f'has {length + change:,} bytes, not {length:,}'


def test_every_flipped_bit_is_found_where_the_crc_is_known(tmp_path):
    data = picture()
    rng = random.Random(0)
    for _ in range(200):
        flipped = bytearray(data)
        flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        told = reason(tmp_path / 'a.jpg', bytes(flipped), expect('a.jpg', data))
        assert told.startswith('is damaged')


def test_a_flipped_bit_is_found_in_every_block(tmp_path):
    data = random.Random(0).randbytes(3 * BLOCK + 7)
    for place in (0, BLOCK - 1, BLOCK, 2 * BLOCK + 5, len(data) - 1):
        flipped = bytearray(data)
        flipped[place] ^= 1
        told = reason(tmp_path / 'a', bytes(flipped), expect('a', data))
        assert told.startswith('is damaged')


JPEGS = {
    'baseline': dict(quality=90),
    'progressive': dict(quality=90, progressive=True),
    'grey': dict(mode='L'),
    'cmyk': dict(mode='CMYK'),
    'restarts': dict(restart_marker_rows=1),
    'thumbnail inside': dict(
        comment=b'\xff\xd8 \xff\xda thumbnail \xff\xd9', optimize=True
    ),
}


@pytest.mark.parametrize('options', JPEGS.values(), ids=JPEGS)
def test_every_cut_is_found_where_nothing_is_known(tmp_path, options):
    data = picture(**options)
    path = tmp_path / 'a.jpg'
    assert reason(path, data, unknown('a.jpg')) == ''
    lengths = {*range(1, len(data), 41), *range(len(data) - 60, len(data))}
    for length in lengths:
        told = reason(path, data[:length], unknown('a.jpg'))
        assert told.startswith(('does not decode: ', 'is not an image')), length


@pytest.mark.parametrize('options', JPEGS.values(), ids=JPEGS)
def test_a_tail_of_zeros_is_found_where_nothing_is_known(tmp_path, options):
    # As a crash of the system leaves it: the right size, and no data.
    data = picture(**options)
    for length in range(0, len(data), 97):
        content = data[:length].ljust(len(data), b'\0')
        assert reason(tmp_path / 'a.jpg', content, unknown('a.jpg')), length


def test_a_png_must_be_whole_too(tmp_path):
    data = picture(file_format='PNG')
    assert reason(tmp_path / 'a.jpg', data, unknown('a.jpg')) == ''
    for length in (*range(50, len(data), 997), len(data) - 20, len(data) - 9):
        assert reason(tmp_path / 'a.jpg', data[:length], unknown('a.jpg'))


def test_an_image_of_several_blocks_is_decoded_whole(tmp_path):
    data = picture(size=(1200, 900), quality=100)
    assert len(data) > BLOCK
    assert reason(tmp_path / 'a.jpg', data, unknown('a.jpg')) == ''
    assert reason(tmp_path / 'a.jpg', data[:-2], unknown('a.jpg'))


def test_a_file_that_comes_in_small_pieces_is_read_to_its_end(tmp_path, monkeypatch):
    # As some network file systems give it.
    data = picture()
    read = os.read
    monkeypatch.setattr(image_check.os, 'read', lambda fd, n: read(fd, min(n, 100)))
    for expected in (expect('a.jpg', data), unknown('a.jpg')):
        assert reason(tmp_path / 'a.jpg', data, expected) == ''
        assert reason(tmp_path / 'a.jpg', data[:-1], expected)


def test_something_behind_the_image_is_no_fault(tmp_path):
    data = picture() + b'camera notes'
    assert reason(tmp_path / 'a.jpg', data, unknown('a.jpg')) == ''


@pytest.mark.parametrize(
    ('data', 'told'),
    [
        (b'', 'is empty'),
        (b'<!DOCTYPE html><html>log in</html>', 'is not an image'),
        (bytes(5000), 'is not an image'),
        (random.Random(0).randbytes(5000), 'is not an image'),
        (picture(file_format='GIF'), 'is not an image'),
    ],
    ids=['nothing', 'page', 'zeros', 'noise', 'gif'],
)
def test_what_is_no_image_is_found(tmp_path, data, told):
    assert reason(tmp_path / 'a.jpg', data, unknown('a.jpg')) == told


def test_a_size_alone_is_compared_before_decoding(tmp_path):
    data = picture()
    expected = Expected('a.jpg', len(data), crc=None)
    assert reason(tmp_path / 'a.jpg', data, expected) == ''
    told = reason(tmp_path / 'a.jpg', picture(seed=1), expected)
    assert 'bytes, not' in told
    hole = data[:400] + bytes(len(data) - 400)
    assert reason(tmp_path / 'a.jpg', hole, expected).startswith('does not decode')


def test_a_huge_image_is_a_fault_and_no_error(tmp_path):
    header = bytearray(picture(file_format='PNG'))
    header[16:24] = (60_000).to_bytes(4, 'big') * 2
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, 'big')
    told = reason(tmp_path / 'a.jpg', bytes(header), unknown('a.jpg'))
    assert told.startswith('does not decode') and 'decompression bomb' in told


def test_what_cannot_be_read_is_a_fault(tmp_path, monkeypatch):
    (tmp_path / 'folder.jpg').mkdir()
    faults = list(check_images(tmp_path, [unknown('folder.jpg'), unknown('a\0.jpg')]))
    assert [fault.name for fault in faults] == ['folder.jpg', 'a\0.jpg']
    assert all(fault.reason.startswith('cannot be read: ') for fault in faults)

    def refuse(*args):
        raise PermissionError(13, 'Permission denied', args[0])

    monkeypatch.setattr(image_check.os, 'open', refuse)
    faults = list(check_images(tmp_path, [unknown('b.jpg')]))
    assert faults == [Fault('b.jpg', 'cannot be read: Permission denied')]


@pytest.mark.skipif(not Path('/proc/self/fd').is_dir(), reason='needs /proc')
def test_no_file_is_left_open(tmp_path):
    data = picture()
    (tmp_path / 'good').write_bytes(data)
    (tmp_path / 'bad').write_bytes(data[:-9])
    expected = [expect(name, data) for name in ('good', 'bad', 'absent')] * 100
    descriptors = Path('/proc/self/fd')
    before = len(list(descriptors.iterdir()))
    assert len(list(check_images(tmp_path, expected))) == 200
    assert len(list(descriptors.iterdir())) == before


def test_progress_comes_to_all_bytes_from_the_calling_thread(tmp_path):
    total, expected = 0, []
    for i in range(500):
        data = bytes(i)
        (tmp_path / str(i)).write_bytes(data)
        expected.append(expect(str(i), data))
        total += i
    told, threads = [], set()

    def on_bytes(count):
        told.append(count)
        threads.add(threading.current_thread())

    assert list(check_images(tmp_path, expected, on_bytes=on_bytes)) == []
    assert sum(told) == total and len(told) > 5
    assert threads == {threading.current_thread()}


def test_names_are_taken_as_they_are_needed(tmp_path):
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield expect(f'{taken}', b'data')

    faults = check_images(tmp_path, endless(), workers=2)
    first = [next(faults) for _ in range(100)]
    assert first[99] == Fault('100', 'is missing') and taken < 1000
    tracemalloc.start()
    for _ in range(20_000):
        next(faults)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    faults.close()
    assert peak < 1e6
    assert not [t for t in threading.enumerate() if 'ThreadPool' in t.name]


def test_real_images_are_whole(coco_mini, tmp_path):
    names = [path.name for path in coco_mini.glob('*.jpg')]
    assert len(names) == 4
    assert list(check_images(coco_mini, map(unknown, names))) == []
    for name in names:
        data = (coco_mini / name).read_bytes()
        for lost in (1, 2, 3, 50, 4096, len(data) // 2):
            cut = reason(tmp_path / name, data[:-lost], unknown(name))
            assert cut.startswith('does not decode')
