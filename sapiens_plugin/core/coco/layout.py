"""COCO 2017 as it is published, and where its files lie on the disk."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sapiens_plugin.core.images.check import Expected
from sapiens_plugin.core.utils.listing import sizes
from sapiens_plugin.core.utils.whole_file import part_of, whole_file

SERVER = 'https://s3.amazonaws.com/images.cocodataset.org'


@dataclass(frozen=True)
class Part:
    """One of the published archives.

    Attributes:
        name: What it is called here.
        path: Where it lies on the server.
        folder: The folder in it whose files are wanted.
        directory: Where they go, under the root.
        size: Bytes; None for not known.
        images: How many images it has, where it has images.
        persons: How many persons MMPose reads of it.
        images_with_persons: On how many images they are.
        boxes: How many the detector found on it, about (:data:`DETECTIONS`).
        selective: Whether a keypoint job reads only some of its files.
    """

    name: str
    path: str
    folder: str
    directory: str
    size: int | None = None
    images: int | None = None
    persons: int | None = None
    images_with_persons: int | None = None
    boxes: int | None = None
    selective: bool = False


ANNOTATIONS = Part(
    name='annotations',
    path='annotations/annotations_trainval2017.zip',
    folder='annotations',
    directory='annotations',
    size=252_907_541,
    selective=True,
)
VAL = Part(
    name='val2017',
    path='zips/val2017.zip',
    folder='val2017',
    directory='images/val2017',
    size=815_585_330,
    images=5_000,
    persons=6_352,
    images_with_persons=2_346,
    boxes=104_000,
)
TRAIN = Part(
    name='train2017',
    path='zips/train2017.zip',
    folder='train2017',
    directory='images/train2017',
    size=19_336_861_798,
    images=118_287,
    persons=149_813,
    images_with_persons=56_599,
    selective=True,
)
DETECTIONS = 'person_detection_results/COCO_val2017_detections_AP_H_70_person.json'
"""The detector's boxes that published figures are measured with."""

KEYPOINT_FILES = tuple(f'person_keypoints_{part.name}.json' for part in (TRAIN, VAL))
"""What a keypoint job reads of the annotations."""


@dataclass(frozen=True)
class Index:
    """What of a part should be on the disk.

    Attributes:
        files: Their names, sizes and CRCs.
        selective: Whether these are only the files that a keypoint job reads.
        sealed: Whether they all arrived once.
    """

    files: list[Expected]
    selective: bool
    sealed: bool


@dataclass(frozen=True)
class Layout:
    """The folders under ``data/coco``."""

    root: Path

    def directory(self, part: Part) -> Path:
        """Return where the files of a part lie."""
        return self.root / part.directory

    def annotation_file(self, part: Part) -> Path:
        """Return the keypoint annotations of a part's images."""
        return self.root / 'annotations' / f'person_keypoints_{part.name}.json'

    @property
    def archives(self) -> Path:
        """Where archives are kept, and what is known of them."""
        return self.root / 'archives'

    def archive(self, part: Part) -> Path:
        """Return where the archive of a part lies while it is there."""
        return self.archives / Path(part.path).name

    def read_index(self, part: Part) -> Index | None:
        """Return what should be there, as far as that is known.

        A damaged index is as good as none: every file is then read and compared.
        """
        whole, begun = self._index(part), part_of(self._index(part))
        path = begun if begun.exists() else whole
        if not path.exists():
            return None
        try:
            head, *lines = path.read_text(encoding='utf-8').splitlines()
            about = json.loads(head)
            files = [_expected(line) for line in lines]
            if len(files) != about['files']:
                return None
            return Index(files, bool(about['selective']), path == whole)
        except (ValueError, KeyError, TypeError):
            return None

    def begin(self, part: Part, files: list[Expected], *, selective: bool) -> None:
        """Note what is to come; until it is sealed, no file of it is trusted."""
        path = part_of(self._index(part))
        with whole_file(path) as file:
            about = {'files': len(files), 'selective': selective}
            lines = [json.dumps(about), *map(_line, files), '']
            file.write('\n'.join(lines).encode())

    def seal(self, part: Part) -> None:
        """Note that what was begun is whole."""
        # Files that a power cut would leave empty must not be trusted afterwards.
        if hasattr(os, 'sync'):  # not on Windows
            os.sync()
        part_of(self._index(part)).replace(self._index(part))

    def _index(self, part: Part) -> Path:
        return self.archives / f'{part.name}.index'


def missing(directory: Path, files: Iterable[Expected]) -> set[str]:
    """Return the names of files that are not there, or not of their size."""
    there = sizes(directory)
    return {file.name for file in files if there.get(file.name) != file.size}


def _line(file: Expected) -> str:
    return f'{file.name}\t{file.size}\t{file.crc:08x}'


def _expected(line: str) -> Expected:
    name, size, crc = line.split('\t')
    return Expected(name, int(size), int(crc, 16))
