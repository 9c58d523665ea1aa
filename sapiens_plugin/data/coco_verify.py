"""Is COCO on the disk whole? Asked of the disk alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sapiens_plugin.data.annotations import image_names, keypoint_images
from sapiens_plugin.data.coco_layout import (
    ANNOTATIONS,
    KEYPOINT_FILES,
    TRAIN,
    VAL,
    Layout,
    Part,
    sizes,
)
from sapiens_plugin.data.image_check import Expected, Fault, check_images
from sapiens_plugin.data.progress import byte_bar
from sapiens_plugin.errors import InputError


@dataclass(frozen=True)
class Verdict:
    """What was found of one part.

    Attributes:
        part: The part.
        expected: How many files should be there.
        faults: Those that are not there or not right, and why.
        compared: Whether bytes were compared with the published archive's CRCs; else
            each image was decoded.
        unfinished: Whether a download of it was begun and not ended.
    """

    part: Part
    expected: int
    faults: list[Fault] = field(default_factory=list)
    compared: bool = False
    unfinished: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults and not self.unfinished


def verify(
    root: Path,
    *,
    keypoints_only: bool = False,
    parts: Sequence[Part] = (ANNOTATIONS, VAL, TRAIN),
) -> list[Verdict]:
    """Check every file that should be there.

    What was brought by :func:`~sapiens_plugin.data.coco.bring` is compared byte for
    byte with what was published. Of images from elsewhere the annotations tell the
    names, and they must decode.

    Args:
        root: Where COCO lies.
        keypoints_only: Of images from elsewhere, look only at those that a keypoint
            job reads.
        parts: What to look at.
    """
    layout = Layout(root)
    return [
        _verify_annotations(layout, part)
        if part.images is None
        else _verify_images(layout, part, keypoints_only)
        for part in parts
    ]


def _verify_annotations(layout: Layout, part: Part) -> Verdict:
    index = layout.read_index(part)
    directory = layout.directory(part)
    if index is not None:
        return Verdict(
            part,
            expected=len(index.files),
            faults=_check(directory, index.files),
            compared=True,
            unfinished=not index.sealed,
        )
    faults = []
    for name in KEYPOINT_FILES:
        try:
            image_names(directory / name)
        except InputError as error:
            faults.append(Fault(name, f'cannot be used: {error}'))
    return Verdict(part, expected=len(KEYPOINT_FILES), faults=faults)


def _verify_images(layout: Layout, part: Part, keypoints_only: bool) -> Verdict:
    index = layout.read_index(part)
    files = {} if index is None else {file.name: file for file in index.files}
    selective = part.selective and (index.selective if index else keypoints_only)
    annotations = layout.annotation_file(part)
    faults = []
    try:
        named = keypoint_images(annotations) if selective else image_names(annotations)
    except InputError as error:
        faults.append(Fault(annotations.name, f'cannot be used: {error}'))
    else:
        for name in named:
            files.setdefault(name, Expected(name, size=None, crc=None))
    if not selective and len(files) != part.images:
        faults.append(
            Fault(
                annotations.name,
                f'names {len(files):,} images, not the {part.images:,} of COCO 2017',
            )
        )
    faults += _check(layout.directory(part), list(files.values()))
    return Verdict(
        part,
        expected=len(files),
        faults=faults,
        compared=index is not None,
        unfinished=index is not None and not index.sealed,
    )


def _check(directory: Path, files: list[Expected]) -> list[Fault]:
    there = sizes(directory)
    total = sum(there.get(file.name, 0) for file in files)
    with byte_bar(f'checking {directory.name}', total) as bar:
        return list(check_images(directory, files, on_bytes=bar.advance))
