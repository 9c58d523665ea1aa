"""The check of a whole data set, in little memory."""

import zlib
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from sapiens_plugin.core.coco.keypoints import KEYPOINT_NAMES
from sapiens_plugin.core.utils.amounts import counted
from sapiens_plugin.core.utils.json_stream import read_lists
from sapiens_plugin.errors import InputError

from . import kinds
from .images import Image, check_files, read_image
from .kinds import Tally, shown
from .persons import Person, Verdict, judge
from .report import Report, Totals
from .samples import Sample, SamplePerson

_SMALL = 32**2  # px², as in COCO's evaluation
# When so many boxes make sense as two corners, and so many only so, then they are.
_ALL_FIT, _ONLY_FIT = 0.99, 0.2
# Problems of a file that do not keep it from being drawn.
_SHOWABLE = (kinds.IMAGE_SIZE, kinds.IMAGE_TURNED, kinds.IMAGE_TURN_UNCLEAR)


def check_dataset(
    annotations: str | Path,
    images: str | Path,
    *,
    decode: bool = False,
    samples: int = 6,
    seed: int = 0,
) -> Report:
    """Check a keypoint file in COCO form, and the images that it names.

    Args:
        annotations: The file.
        images: The folder that its ``file_name`` are relative to.
        decode: Decode every image to its end; slow, and finds damaged ones.
        samples: How many pictures to choose for a look, at most.
        seed: Another one chooses other pictures.

    Raises:
        InputError: The file or the folder cannot be read, or the file is not of that
            form at all.
    """
    annotations, images = Path(annotations), Path(images)
    if not images.is_dir():
        raise InputError(
            f'{images} is not a folder. Name the one that the file names in '
            f'{annotations} are relative to.'
        )
    tally = Tally()
    layout = _read_layout(annotations, tally)
    speed = check_files(layout.images.values(), images, decode=decode)
    persons = _Persons(layout, tally, _Choice(samples, seed))
    for _, index, entry in read_lists(annotations, 'annotations'):
        persons.add(index, entry)
    totals = persons.finish(speed)
    return Report(
        annotations,
        images,
        tally.findings(),
        totals,
        persons.choice.samples(layout, images),
    )


@dataclass
class _Layout:
    """What annotations refer to."""

    images: dict[int, Image] = field(default_factory=dict)
    categories: set[int | str] = field(default_factory=set)
    names: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()  # from 0


def _read_layout(path: Path, tally: Tally) -> _Layout:
    layout, files = _Layout(), set()
    for part, index, entry in read_lists(path, 'images', 'categories'):
        if part == 'categories':
            _read_category(index, entry, layout, tally)
            continue
        image = read_image(index, entry, tally)
        if image is None:
            continue
        if image.id in layout.images:
            tally.add(kinds.IMAGE_ID_TWICE, image.place)
        if image.name in files:
            tally.add(kinds.IMAGE_NAME_TWICE, image.place)
        files.add(image.name)
        layout.images[image.id] = image
    if not layout.names:
        tally.add(kinds.CATEGORY_NAMES, path.name)
    elif len(layout.names) != len(KEYPOINT_NAMES):
        tally.add(kinds.KEYPOINT_COUNT, counted(len(layout.names), 'keypoint'))
    elif layout.names != KEYPOINT_NAMES:
        pairs = zip(layout.names, KEYPOINT_NAMES, strict=True)
        for name, coco in pairs:
            if name != coco:
                tally.add(kinds.KEYPOINT_NAMES, f'{shown(name)} for {coco}')
    return layout


def _read_category(index: int, entry: dict, layout: _Layout, tally: Tally) -> None:
    number, names = entry.get('id'), entry.get('keypoints', [])
    named = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if type(number) is not int or not isinstance(entry.get('name'), str) or not named:
        place = f'categories[{index}]' if number is None else shown(number)
        tally.add(kinds.CATEGORY_ENTRY, place)
    if not isinstance(number, int | str):
        return
    layout.categories.add(number)
    if named and names and not layout.names:
        layout.names = tuple(names)
        skeleton = entry.get('skeleton', [])
        layout.skeleton = _read_skeleton(skeleton, len(names))
        if not isinstance(skeleton, list) or len(layout.skeleton) != len(skeleton):
            tally.add(kinds.SKELETON, shown(entry.get('name')))


def _read_skeleton(skeleton: object, count: int) -> tuple[tuple[int, int], ...]:
    """The pairs that make sense, counted from 0."""
    if not isinstance(skeleton, list):
        return ()
    return tuple(
        (pair[0] - 1, pair[1] - 1)
        for pair in skeleton
        if isinstance(pair, list)
        and len(pair) == 2
        and all(type(end) is int and 1 <= end <= count for end in pair)
    )


class _Persons:
    """Goes through annotations and adds them up."""

    def __init__(self, layout: _Layout, tally: Tally, choice: '_Choice'):
        self.choice = choice
        self._layout = layout
        self._tally = tally
        self._ids: set[int] = set()
        self._annotations = self._crowds = self._unlabelled = 0
        self._learned = self._visible = 0
        self._labelled: list[int] = [0] * len(layout.names)
        self._widths, self._heights = array('f'), array('f')
        self._boxes = self._corners = 0
        self._only_corners = Tally()

    def add(self, index: int, entry: dict) -> None:
        """Look at one annotation."""
        self._annotations += 1
        number = entry.get('id')
        place = f'annotations[{index}]' if number is None else shown(number)
        if type(number) is not int:
            self._tally.add(kinds.ANNOTATION_ID, place)
        elif number in self._ids:
            self._tally.add(kinds.ANNOTATION_ID_TWICE, place)
        else:
            self._ids.add(number)
        image = self._image(entry, place)
        category = entry.get('category_id')
        if (
            not isinstance(category, int | str)
            or category not in self._layout.categories
        ):
            self._tally.add(kinds.CATEGORY_UNKNOWN, f'{place} ({shown(category)})')
        if image is None:
            return
        count = self._expected(entry)
        verdict = judge(entry, (image.width, image.height), count)
        for kind in verdict.kinds:
            self._tally.add(kind, place)
        self._count_person(entry, verdict)
        image.persons += verdict.read
        if verdict.person and (verdict.read or verdict.person.labelled):
            self.choice.offer(image, place, verdict)
        if verdict.fits_only_as_corners:
            self._only_corners.add(kinds.BOX_CORNERS, place)

    def _image(self, entry: dict, place: str) -> Image | None:
        number = entry.get('image_id')
        image = (
            self._layout.images.get(number) if isinstance(number, int | float) else None
        )
        if image is None:
            self._tally.add(kinds.IMAGE_UNKNOWN, f'{place} ({shown(number)})')
        return image

    def _expected(self, entry: dict) -> int:
        """How many keypoints an annotation should have: one number for all."""
        keypoints = entry.get('keypoints')
        if not self._labelled and isinstance(keypoints, list):
            self._labelled = [0] * (len(keypoints) // 3)
        return len(self._labelled)

    def _count_person(self, entry: dict, verdict: Verdict) -> None:
        person = verdict.person
        if person is None:
            return
        if entry.get('iscrowd'):
            self._crowds += 1
        elif not person.labelled:
            self._unlabelled += not verdict.read
        else:
            self._boxes += 1
            self._corners += verdict.fits_as_corners
        if verdict.learned:
            self._count_learned(person)

    def _count_learned(self, person: Person) -> None:
        self._learned += 1
        for index, (_, _, flag) in enumerate(person.keypoints):
            self._labelled[index] += flag > 0
            self._visible += flag == 2
        self._widths.append(person.box[2])
        self._heights.append(person.box[3])

    def finish(self, images_per_second: float) -> Totals:
        """Judge what only shows in the whole, and add up."""
        self._judge_corners()
        names = self._layout.names or tuple(map(str, range(len(self._labelled))))
        persons = max(self._learned, 1)
        labelled = {
            name: count / persons
            for name, count in zip(names, self._labelled, strict=True)
        }
        if not self._learned:
            self._tally.add(
                kinds.NOTHING_TO_TRAIN, counted(self._annotations, 'annotation')
            )
        else:
            for name, share in labelled.items():
                if not share:
                    self._tally.add(kinds.KEYPOINT_NEVER, shown(name))
        images = self._layout.images.values()
        for image in images:
            self._tell_problem(image)
        small = sum(
            width * height < _SMALL
            for width, height in zip(self._widths, self._heights, strict=True)
        )
        return Totals(
            images=len(images),
            images_read=sum(image.persons > 0 for image in images),
            annotations=self._annotations,
            persons=self._learned,
            crowds=self._crowds,
            unlabelled=self._unlabelled,
            keypoints=len(self._labelled),
            labelled_per_person=sum(self._labelled) / persons,
            visible_per_person=self._visible / persons,
            labelled=labelled,
            box=tuple(
                median(sides) if sides else 0.0
                for sides in (self._widths, self._heights)
            ),
            small_boxes=small / persons,
            images_per_second=images_per_second,
        )

    def _judge_corners(self) -> None:
        found = self._only_corners.count(kinds.BOX_CORNERS)
        if not found:
            return
        if self._corners >= _ALL_FIT * self._boxes and found >= _ONLY_FIT * self._boxes:
            self._tally.merge(self._only_corners)
            self._tally.drop(kinds.BOX_BEYOND)

    def _tell_problem(self, image: Image) -> None:
        if image.problem is None:
            return
        unread = not image.persons and image.problem is not kinds.IMAGE_TURN_UNCLEAR
        kind = kinds.IMAGE_UNREAD if unread else image.problem
        self._tally.add(kind, image.detail or image.place)


class _Choice:
    """A random choice of images that have persons, with all their persons.

    Each image has a random rank by its identifier, and those of the lowest ranks stay:
    so an image's persons may come in any order, and memory is that of the choice.
    """

    def __init__(self, size: int, seed: int):
        self._size = size
        self._seed = seed
        self._chosen: dict[int, tuple[int, list[SamplePerson]]] = {}

    def offer(self, image: Image, place: str, verdict: Verdict) -> None:
        """Take a person in, if its image has a place in the choice."""
        if image.problem not in (None, *_SHOWABLE) or not self._size:
            return
        if image.id not in self._chosen:
            rank = zlib.crc32(f'{self._seed} {image.id}'.encode())
            if len(self._chosen) == self._size:
                last = max(self._chosen, key=lambda one: self._chosen[one][0])
                if self._chosen[last][0] < rank:
                    return
                del self._chosen[last]
            self._chosen[image.id] = (rank, [])
        person = verdict.person
        wrong = tuple(kind.name for kind in verdict.kinds)
        self._chosen[image.id][1].append(
            SamplePerson(place, person.box, person.keypoints, wrong)
        )

    def samples(self, layout: _Layout, folder: Path) -> tuple[Sample, ...]:
        """Return the choice."""
        images = [layout.images[number] for number in sorted(self._chosen)]
        return tuple(
            Sample(
                f'{image.place}, {image.width:g} x {image.height:g}',
                folder / image.name,
                (image.width, image.height),
                tuple(self._chosen[image.id][1]),
                layout.names,
                layout.skeleton,
            )
            for image in images
        )
