"""The images of a data set: their entries and their files."""

import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path, PurePosixPath

from PIL import Image as Pillow

from sapiens_plugin.core.images.decode import BROKEN, FORMATS, orientation_of
from sapiens_plugin.core.utils.listing import missing, names_in
from sapiens_plugin.core.utils.parallel import for_each

from . import kinds
from .kinds import Kind, Tally, shown

_WORKERS = 8
_BATCH = 64  # files a thread takes at a time


@dataclass(slots=True)
class Image:
    """An entry of ``images``.

    Attributes:
        id: Its identifier.
        name: Of its file, relative to the images folder.
        width: As the entry says, px.
        height: As the entry says, px.
        persons: How many annotations training reads of it.
        problem: What is wrong with its file.
        detail: Its place in words, for that problem.
    """

    id: int
    name: str
    width: float
    height: float
    persons: int = 0
    problem: Kind | None = None
    detail: str = ''

    @property
    def place(self) -> str:
        """The image for a reader."""
        return f'{shown(self.id)} ({shown(self.name)})'


def read_image(index: int, entry: dict, tally: Tally) -> Image | None:
    """Read an entry; None, and counted, where something is missing in it."""
    if wrong_field(entry):
        number = entry.get('id')
        place = f'images[{index}]' if number is None else shown(number)
        tally.add(kinds.IMAGE_ENTRY, place)
        return None
    image = Image(*(entry[field] for field in ('id', 'file_name', 'width', 'height')))
    name = image.name
    path = PurePosixPath(name)
    if path.is_absolute() or '..' in path.parts or '\\' in name or name[1:2] == ':':
        tally.add(kinds.IMAGE_PATH, image.place)
    return image


def wrong_field(entry: dict) -> str | None:
    """Name the first field of an entry that is missing or of another kind."""
    if type(entry.get('id')) is not int:
        return 'id'
    if not isinstance(entry.get('file_name'), str):
        return 'file_name'
    for side in ('width', 'height'):
        value = entry.get(side)
        if type(value) not in (int, float) or not 0 < value < 1e9:
            return side
    return None


def check_files(images: Iterable[Image], folder: Path, *, decode: bool) -> float:
    """Look at the files of all images, and note what is wrong with each.

    Args:
        images: The entries; their problems are set.
        folder: Where the files lie.
        decode: Decode every picture to its end, not only its header.

    Returns:
        How many files were opened in a second; 0 where there is none.
    """
    begin = time.perf_counter()
    there = list(_present(images, folder))

    def batches() -> Iterator[list[Image]]:
        pending = iter(there)
        while batch := list(islice(pending, _BATCH)):
            yield batch

    def look(batch: list[Image]) -> None:
        for image in batch:
            image.problem, image.detail = _look_at_file(image, folder, decode=decode)

    with warnings.catch_warnings():
        # Large pictures and odd tags are no concern of the user's here.
        warnings.simplefilter('ignore')
        for_each(batches(), look, workers=_WORKERS, stop=lambda: None)
    return len(there) / (time.perf_counter() - begin)


def _present(images: Iterable[Image], folder: Path) -> Iterator[Image]:
    """Note the missing files; yield the others."""
    images = list(images)
    absent = set(missing(folder, (image.name for image in images)))
    alike = cache(lambda place: {name.lower(): name for name in names_in(place)})
    for image in images:
        if image.name not in absent:
            yield image
            continue
        image.problem = kinds.IMAGE_MISSING
        path = folder / image.name
        other = alike(path.parent).get(path.name.lower())
        if other not in (None, path.name):
            image.detail = f'{image.place}; there is {shown(other)}'


def _look_at_file(
    image: Image, folder: Path, *, decode: bool
) -> tuple[Kind | None, str]:
    path = folder / image.name
    try:
        if not path.stat().st_size:
            return kinds.IMAGE_EMPTY, ''
        with Pillow.open(path) as picture:
            size, orientation = picture.size, orientation_of(picture)
            if picture.format not in FORMATS:
                return kinds.IMAGE_UNREADABLE, f'{image.place}: {picture.format}'
            if decode:
                picture.load()
    except BROKEN as error:
        reason = shown(str(error)) if decode else ''
        return kinds.IMAGE_UNREADABLE, f'{image.place} {reason}'.strip()
    turned = size[::-1] if orientation > 4 else size
    said = (image.width, image.height)
    if turned != said:
        kind = kinds.IMAGE_TURNED if size == said else kinds.IMAGE_SIZE
        sides = f'{turned[0]} x {turned[1]}, not {said[0]:g} x {said[1]:g}'
        return kind, f'{image.place}: {sides}'
    if orientation > 1 and turned == size:
        return kinds.IMAGE_TURN_UNCLEAR, image.place
    return None, ''
