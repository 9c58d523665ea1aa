"""Archives of COCO's structure, small enough to make and serve in a test."""

import io
import json
import random
import struct
import warnings
import zipfile
from collections.abc import Collection, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import cv2
import numpy as np

SPLITS = ('train2017', 'val2017')
IMAGE_ARCHIVES = {split: f'zips/{split}.zip' for split in SPLITS}
ANNOTATION_ARCHIVE = 'annotations/annotations_trainval2017.zip'
ARCHIVES = (*IMAGE_ARCHIVES.values(), ANNOTATION_ARCHIVE)

HOSTILE = ('parent', 'backslash', 'absolute', 'drive', 'symlink', 'duplicate')

_WHEN = (2017, 9, 1, 12, 0, 0)
_JPEG_QUALITY = 95
_LARGEST_COMMENT = 0xFFFF - 2
_KEYPOINTS = 17


@dataclass(frozen=True)
class SmallCoco:
    """What was made.

    Attributes:
        root: The folder to serve.
        images: By split, by file name such as ``'000000000009.jpg'``: its bytes, in the
            archive's order.
        with_keypoints: By split: the names that a keypoint job reads.
        annotations: By name in the archive, such as
            ``'annotations/person_keypoints_train2017.json'``: its bytes.
        hostile: Names of hostile members, as they stand in train2017.zip.
    """

    root: Path
    images: dict[str, dict[str, bytes]]
    with_keypoints: dict[str, frozenset[str]]
    annotations: dict[str, bytes]
    hostile: tuple[str, ...] = field(default=())

    def archive(self, name: str) -> Path:
        """The file of ``'train2017'``, ``'val2017'`` or ``'annotations'``."""
        return self.root / IMAGE_ARCHIVES.get(name, ANNOTATION_ARCHIVE)


def make_small_coco(
    root: Path,
    *,
    train: int = 40,
    val: int = 10,
    image_bytes: int = 0,
    deflate_images: bool = False,
    zip64: bool = False,
    streamed: bool = False,
    hostile: Collection[str] = (),
    seed: int = 0,
) -> SmallCoco:
    """Write the three archives under a folder; the same seed, the same bytes.

    Args:
        root: Where; it gets the folders ``zips`` and ``annotations``.
        train: Images in train2017; about half of them have annotated keypoints.
        val: Images in val2017.
        image_bytes: Mean size of an image; sizes lie within a half of it. 0 for what
            JPEG makes of 32×24 px of noise, about 2 kB.
        deflate_images: Compress images as well; they are stored otherwise.
        zip64: Write every size and offset in the 64-bit form that archives above 4 GiB
            take.
        streamed: Write sizes and CRCs behind each member, as for a pipe.
        hostile: Which of `HOSTILE` to put into the middle of train2017.zip.
        seed: Of image contents, names and order.
    """
    rng = random.Random(seed)
    numbers = rng.sample(range(1, 600_000), train + val)
    image_ids = {'train2017': numbers[:train], 'val2017': numbers[train:]}
    images, with_keypoints, annotations = {}, {}, {}
    for split, ids in image_ids.items():
        images[split] = {file_name(i): _jpeg(i, image_bytes) for i in ids}
        labels, reads = _label(ids, rng)
        with_keypoints[split] = frozenset(map(file_name, reads))
        for kind, data in labels.items():
            annotations[f'annotations/{kind}_{split}.json'] = json.dumps(data).encode()

    style = {'zip64': zip64, 'streamed': streamed}
    bad = _hostile_members(hostile, root, images['train2017'])
    for split in SPLITS:
        members = [(f'{split}/{name}', data) for name, data in images[split].items()]
        if split == 'train2017':
            middle = len(members) // 2
            members[middle:middle] = bad
        write_zip(
            root / IMAGE_ARCHIVES[split],
            [(f'{split}/', b''), *members],
            deflate=deflate_images,
            **style,
        )
    write_zip(root / ANNOTATION_ARCHIVE, annotations.items(), deflate=True, **style)
    return SmallCoco(
        root, images, with_keypoints, annotations, tuple(name for name, _ in bad)
    )


def file_name(image_id: int) -> str:
    """COCO's name of an image file."""
    return f'{image_id:012d}.jpg'


def write_zip(
    path: Path,
    members: Iterable[tuple[str, bytes]],
    *,
    deflate: bool = False,
    zip64: bool = False,
    streamed: bool = False,
) -> None:
    """Write a zip in the way of Info-ZIP: local extra fields longer than central ones.

    A name that ends in ``/`` becomes a folder, one that ends in ``.symlink`` a link to
    what its data say.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    limit = mock.patch.object(zipfile, 'ZIP64_LIMIT', 0) if zip64 else nullcontext()
    with path.open('wb') as file, limit:
        target = _Pipe(file) if streamed else file
        with zipfile.ZipFile(target, 'w') as archive:
            for name, data in members:
                _write_member(archive, name, data, deflate=deflate)


def corrupt_member(archive: Path, member: str, *, flips: int = 1) -> None:
    """Flip bits in the middle of a member's data; its CRC stays what it was."""
    content = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as opened:
        info = opened.getinfo(member)
    name_and_extra = struct.unpack_from('<HH', content, info.header_offset + 26)
    data = info.header_offset + 30 + sum(name_and_extra)
    for i in range(flips):
        content[data + info.compress_size // 2 + i] ^= 0x55
    archive.write_bytes(content)


class _Pipe(io.RawIOBase):
    """A file that can't seek; zipfile then writes data descriptors."""

    def __init__(self, file):
        self._file = file

    def writable(self):
        return True

    def write(self, data):
        return self._file.write(data)


def _write_member(archive, name, data, *, deflate):
    info = zipfile.ZipInfo('name', _WHEN)
    # Set afterwards: the constructor turns the separators of the system into slashes.
    info.filename = info.orig_filename = name
    info.compress_type = zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED
    info.create_system = 3  # Unix
    mode = 0o100644
    if name.endswith('/'):
        mode, info.compress_type = 0o040755, zipfile.ZIP_STORED
    elif name.endswith('.symlink'):
        mode = 0o120777
    info.external_attr = mode << 16
    times = struct.pack('<HHBii', 0x5455, 9, 3, 0, 0)
    owner = struct.pack('<HHBBIBI', 0x7875, 11, 1, 4, 1000, 4, 1000)
    info.extra = times + owner
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Duplicate name')
        archive.writestr(info, data)
    # The central directory, written at the end, has one time only.
    central = struct.pack('<HHBi', 0x5455, 5, 3, 0) + owner
    info.extra = info.extra.replace(times + owner, central)


def _hostile_members(kinds, root, images):
    data = b'must not be written'
    first = next(iter(images), '')
    members = {
        'parent': ('train2017/../../x.jpg', data),
        'backslash': ('train2017\\..\\..\\x.jpg', data),
        'absolute': ((root / 'x.jpg').absolute().as_posix(), data),
        'drive': ('C:x.jpg', data),
        'symlink': ('train2017/x.symlink', b'/etc/passwd'),
        'duplicate': (f'train2017/{first}', data),
    }
    return [members[kind] for kind in kinds]


def _jpeg(seed, image_bytes):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    _, encoded = cv2.imencode('.jpg', pixels, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    start, rest = encoded[:2].tobytes(), encoded[2:].tobytes()
    wanted = int(image_bytes * rng.uniform(0.5, 1.5))
    comments = b''
    while (missing := wanted - len(start) - len(comments) - len(rest)) > 4:
        length = min(missing - 4, _LARGEST_COMMENT)
        comments += b'\xff\xfe' + struct.pack('>H', length + 2) + rng.bytes(length)
    return start + comments + rest


def _label(ids, rng):
    """COCO's three annotation files, and the ids of which a keypoint job reads one."""
    images = [
        {'id': i, 'file_name': file_name(i), 'width': 32, 'height': 24, 'license': 1}
        for i in ids
    ]
    people, captions, reads = [], [], []
    for nth, image_id in enumerate(ids):
        kinds = _PEOPLE[nth % len(_PEOPLE)]
        for kind in kinds:
            people.append(_person(len(people) + 1, image_id, kind, rng))
        if 'good' in kinds:
            reads.append(image_id)
        captions.append({'id': nth + 1, 'image_id': image_id, 'caption': 'Noise.'})
    rng.shuffle(people)
    info = {'description': 'small stand-in', 'year': 2017}
    names = [f'point_{i}' for i in range(_KEYPOINTS)]
    person = {'id': 1, 'name': 'person', 'supercategory': 'person'}
    common = {'info': info, 'licenses': [{'id': 1, 'name': 'none'}], 'images': images}
    keypoint_keys = ('keypoints', 'num_keypoints')
    instances = [
        {key: value for key, value in one.items() if key not in keypoint_keys}
        for one in people
    ]
    labels = {
        'person_keypoints': common
        | {
            'annotations': people,
            'categories': [person | {'keypoints': names, 'skeleton': [[1, 2]]}],
        },
        'instances': common | {'annotations': instances, 'categories': [person]},
        'captions': common | {'annotations': captions},
    }
    return labels, reads


# In turn, who is in an image: half of the images have someone with keypoints.
_PEOPLE = (
    ('good',),
    (),
    ('good', 'crowd', 'no keypoints'),
    ('crowd',),
    ('no keypoints', 'good'),
    ('no keypoints',),
    ('good', 'good', 'good'),
    ('empty box',),
)


def _person(annotation_id, image_id, kind, rng):
    keypoints = [0] * (3 * _KEYPOINTS)
    if kind in ('good', 'empty box'):
        for i in rng.sample(range(_KEYPOINTS), 9):
            point = rng.randrange(3, 20), rng.randrange(3, 20), rng.choice((1, 2))
            keypoints[3 * i : 3 * i + 3] = point
    width = 0.0 if kind == 'empty box' else 18.5
    return {
        'id': annotation_id,
        'image_id': image_id,
        'category_id': 1,
        'iscrowd': int(kind == 'crowd'),
        'num_keypoints': sum(v > 0 for v in keypoints[2::3]),
        'keypoints': keypoints,
        'bbox': [2.0, 2.0, width, 18.25],
        'area': width * 18.25 * 0.6,
        'segmentation': [[2.0, 2.0, 20.5, 2.0, 20.5, 20.25]],
    }
