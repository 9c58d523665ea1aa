"""Is COCO on the disk whole? Asked of the disk alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sapiens_plugin.core.coco.annotations import image_names, keypoint_images
from sapiens_plugin.core.coco.layout import (
    ANNOTATIONS,
    DETECTIONS,
    KEYPOINT_FILES,
    TRAIN,
    VAL,
    Layout,
    Part,
)
from sapiens_plugin.core.images.check import Expected, Fault, check_images
from sapiens_plugin.core.utils.free_space import disk_errors
from sapiens_plugin.core.utils.json_file import check_json_file
from sapiens_plugin.core.utils.listing import sizes
from sapiens_plugin.core.utils.progress import byte_bar
from sapiens_plugin.errors import InputError


@dataclass(frozen=True)
class Verdict:
    """What was found of one part.

    Attributes:
        name: What the part is called.
        expected: How many files should be there.
        faults: What is not there or not right, by its path under the root, and why.
        compared: Whether bytes were compared with the published archive's CRCs; else
            each file is readable: an image that decodes, annotations that are whole.
        unfinished: Whether a download of it was begun and not ended.
    """

    name: str
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
    detections: bool = True,
    parts: Sequence[Part] = (ANNOTATIONS, VAL, TRAIN),
) -> list[Verdict]:
    """Check every file that should be there.

    What :func:`~sapiens_plugin.workbench.download.coco.bring` brought is compared byte
    for byte with what was published. Of images from elsewhere the annotations tell the
    names, and they must decode.

    Args:
        root: Where COCO lies.
        keypoints_only: Of images from elsewhere, look only at those that a keypoint
            job reads.
        detections: Whether the person detections should be there.
        parts: What else should be there.

    Raises:
        InputError: The root is not a folder, or the disk refuses.
    """
    if not root.is_dir():
        raise InputError(f'{root} is not a folder. Correct --root or COCO_ROOT.')
    layout = Layout(root)
    with disk_errors(root):
        verdicts = [
            _verify_annotations(layout, part)
            if part.images is None
            else _verify_images(layout, part, keypoints_only)
            for part in parts
        ]
        if detections:
            verdicts.append(_verify_detections(layout))
    return verdicts


def _verify_annotations(layout: Layout, part: Part) -> Verdict:
    index = layout.read_index(part)
    if index is not None:
        return Verdict(
            part.name,
            expected=len(index.files),
            faults=_check(layout, part, index.files),
            compared=True,
            unfinished=not index.sealed,
        )
    faults = []
    for name in KEYPOINT_FILES:
        path = layout.directory(part) / name
        if not path.exists():
            faults.append(Fault(f'{part.directory}/{name}', 'is missing'))
            continue
        try:
            image_names(path)
        except InputError as error:
            faults.append(Fault(f'{part.directory}/{name}', f'is of no use: {error}'))
    return Verdict(part.name, expected=len(KEYPOINT_FILES), faults=faults)


def _verify_images(layout: Layout, part: Part, keypoints_only: bool) -> Verdict:
    index = layout.read_index(part)
    if not layout.directory(part).is_dir():
        reason = 'is missing'
        if (layout.root / part.folder).is_dir():
            reason += f', but there is {part.folder}: move it into images'
        faults = [Fault(part.directory, reason)]
        return Verdict(part.name, expected=part.images, faults=faults)
    files = {} if index is None else {file.name: file for file in index.files}
    selective = part.selective and (index.selective if index else keypoints_only)
    annotations = layout.annotation_file(part)
    faults = []
    try:
        named = keypoint_images(annotations) if selective else image_names(annotations)
    except InputError:
        what = 'cannot be checked' if index is None else 'is checked only in part'
        reason = f'{what} without annotations/{annotations.name}'
        faults.append(Fault(part.directory, reason))
    else:
        for name in named:
            files.setdefault(name, Expected(name, size=None, crc=None))
        if not selective and len(files) != part.images:
            reason = (
                f'names {len(files):,} images, not the {part.images:,} of COCO 2017'
            )
            faults.append(Fault(f'annotations/{annotations.name}', reason))
    faults += _check(layout, part, list(files.values()))
    return Verdict(
        part.name,
        expected=len(files) or part.images,
        faults=faults,
        compared=index is not None,
        unfinished=index is not None and not index.sealed,
    )


def _verify_detections(layout: Layout) -> Verdict:
    path, faults = layout.root / DETECTIONS, []
    try:
        check_json_file(path, what='file', way_out='')
    except InputError as error:
        reason = f'is of no use: {error}' if path.exists() else 'is missing'
        faults = [Fault(DETECTIONS, reason)]
    return Verdict('detections', expected=1, faults=faults)


def _check(layout: Layout, part: Part, files: list[Expected]) -> list[Fault]:
    directory = layout.directory(part)
    there = sizes(directory)
    total = sum(there.get(file.name, 0) for file in files)
    with byte_bar(f'checking {directory.name}', total) as bar:
        return [
            Fault(f'{part.directory}/{fault.name}', fault.reason)
            for fault in check_images(directory, files, on_bytes=bar.advance)
        ]
