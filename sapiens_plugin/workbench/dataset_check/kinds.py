"""What can be wrong with a keypoint data set, and what each thing does to a job.

The consequences are those of MMPose's top-down ``CocoDataset``, its transforms and
``CocoMetric``.
"""

from dataclasses import dataclass, field
from enum import Enum

_SHOWN = 5  # how many of a kind are named


class Severity(Enum):
    """How bad a kind is."""

    ERROR = 'error'  # a job stops, or learns nothing from it, or learns wrongly
    WARNING = 'warning'
    NOTE = 'note'


@dataclass(frozen=True)
class Kind:
    """One way to be wrong.

    Attributes:
        name: What it is called.
        severity: How bad it is.
        meaning: What it is, what it does to a job and what to do about it.
    """

    name: str
    severity: Severity
    meaning: str


@dataclass(frozen=True)
class Finding:
    """A kind that was found.

    Attributes:
        kind: Which.
        count: How often.
        first: The first entries it was found in: identifiers, names, places.
    """

    kind: Kind
    count: int
    first: tuple[str, ...]


@dataclass
class Tally:
    """Counts kinds and keeps the first places of each."""

    _counts: dict[Kind, int] = field(default_factory=dict)
    _first: dict[Kind, list[str]] = field(default_factory=dict)

    def add(self, kind: Kind, place: str) -> None:
        """Count one more."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        first = self._first.setdefault(kind, [])
        if len(first) < _SHOWN:
            first.append(place)

    def count(self, kind: Kind) -> int:
        """Return how often a kind was found."""
        return self._counts.get(kind, 0)

    def drop(self, kind: Kind) -> None:
        """Forget a kind."""
        self._counts.pop(kind, None)

    def merge(self, other: 'Tally') -> None:
        """Take over all that another counted; it has kinds of its own."""
        self._counts.update(other._counts)
        self._first.update(other._first)

    def findings(self) -> tuple[Finding, ...]:
        """Return what was found: errors first, the most frequent first."""
        order = list(Severity)
        kinds = sorted(
            self._counts,
            key=lambda kind: (order.index(kind.severity), -self._counts[kind]),
        )
        return tuple(
            Finding(kind, self._counts[kind], tuple(self._first[kind]))
            for kind in kinds
        )


def shown(value: object) -> str:
    """Write an identifier or a name from the file so that any terminal can show it."""
    if isinstance(value, str):
        text = ascii(value)[1:-1]
    elif isinstance(value, int | float) or value is None:
        text = f'{value:.6g}' if isinstance(value, float) else str(value)
    else:
        text = f'a {type(value).__name__}'
    return text if len(text) <= 60 else f'{text[:57]}...'


def _error(name: str, meaning: str) -> Kind:
    return Kind(name, Severity.ERROR, meaning)


def _warning(name: str, meaning: str) -> Kind:
    return Kind(name, Severity.WARNING, meaning)


def _note(name: str, meaning: str) -> Kind:
    return Kind(name, Severity.NOTE, meaning)


# The file as a whole.
NOTHING_TO_TRAIN = _error(
    'nothing to train on',
    'No person is left that training would read and learn from. Each has to have a '
    'box inside its image and labelled keypoints, and must not be a crowd.',
)
KEYPOINT_NEVER = _warning(
    'keypoint never labelled',
    'No person has this keypoint labelled: its heatmap is never learned, and its '
    'predictions stay noise.',
)
CATEGORY_ENTRY = _error(
    'category entry',
    'A category needs an "id" and a "name", and "keypoints", where it has them, are a '
    'list of names. MMPose stops without an id.',
)
CATEGORY_NAMES = _warning(
    'no keypoint names',
    'No category names its "keypoints", so their number is taken from the first '
    'person, and the pictures show no skeleton.',
)
SKELETON = _warning(
    'skeleton',
    'The "skeleton" is a list of pairs of keypoint numbers, counted from 1. Only the '
    'pictures use it.',
)
KEYPOINT_COUNT = _note(
    'not 17 keypoints',
    "The configs here are for COCO's 17, with which the job would stop. For this file "
    'describe its keypoints (names, swaps of left and right, skeleton, sigmas) in a '
    'file, and name that in on_data(keypoints=…): docs/own_data.md.',
)
KEYPOINT_NAMES = _note(
    'other keypoint names',
    "17 keypoints, but not COCO's names in COCO's order. The configs flip pictures by "
    "COCO's pairs of left and right; describe your own (docs/own_data.md) unless the "
    'meaning is the same.',
)

# Images.
IMAGE_ENTRY = _error(
    'image entry',
    'An image needs "id" (a whole number), "file_name", and "width" and "height" '
    'above 0. MMPose stops without them.',
)
IMAGE_ID_TWICE = _error(
    'image id twice',
    'MMPose keeps the last image with an id: the persons of the others are put on the '
    'wrong picture.',
)
IMAGE_NAME_TWICE = _warning(
    'image name twice',
    'One file under several ids: its persons count as those of different pictures, '
    'and evaluation takes each for a false find on the other.',
)
IMAGE_PATH = _warning(
    'image path',
    'An absolute path, one with ".." or one with "\\": it works on few machines. Name '
    'files relative to the images folder, with "/".',
)
IMAGE_MISSING = _error(
    'image missing',
    'The file is not in the images folder. Training goes on without up to 1% of its '
    'images, and stops at more; tools/test.py stops at the first.',
)
IMAGE_EMPTY = _error(
    'image empty', 'The file has 0 bytes. It is to a job what a missing one is.'
)
IMAGE_UNREADABLE = _error(
    'image unreadable',
    'Not an image, damaged, or a format that is not read. Training goes on without up '
    'to 1% of its images, and stops at more; tools/test.py stops at the first.',
)
IMAGE_SIZE = _error(
    'image size',
    'The picture has another size than "width" and "height" say. Was it resized after '
    'labelling? Then boxes and keypoints lie in the wrong places.',
)
IMAGE_TURNED = _warning(
    'image turned',
    'The file has an EXIF orientation, and "width" and "height" are those of the '
    'unturned picture. It is read unturned here. Elsewhere it is turned, and labels '
    'lie in the wrong places: better save it without the tag.',
)
IMAGE_TURN_UNCLEAR = _warning(
    'image turned or not',
    'The file has an EXIF orientation that leaves its size as it is. It is turned or '
    'mirrored on reading: were the labels drawn on the turned picture?',
)
IMAGE_UNREAD = _warning(
    'image not read',
    'Missing, empty, unreadable or of another size, but no training job reads it: it '
    'has no person to train on. Evaluation with detected boxes may.',
)

# Annotations.
ANNOTATION_ID = _error(
    'annotation id',
    'The "id" is missing or not a whole number. MMPose stops without it, and stock '
    'evaluation stops at ids that are not numbers.',
)
ANNOTATION_ID_TWICE = _error(
    'annotation id twice',
    'MMPose keeps the last annotation with an id: it is read several times, and the '
    'others never.',
)
IMAGE_UNKNOWN = _error(
    'unknown image',
    'No image has this "image_id", so nothing is learned from it (1 and "1" are '
    'different ids). Without "image_id" MMPose stops.',
)
CATEGORY_UNKNOWN = _error(
    'unknown category',
    'No category has this "category_id": it is trained on, but not evaluated. '
    'Without "category_id" MMPose stops.',
)
KEYPOINTS_MISSING = _error(
    'no keypoints',
    'No "keypoints": training leaves the annotation out without a word, and '
    "evaluation stops with KeyError: 'keypoints'. Put in 3 zeros for each keypoint, "
    'or take the annotation out.',
)
KEYPOINTS_FORM = _error(
    'keypoints form',
    '"keypoints" has to be a flat list of numbers [x1, y1, flag1, x2, ...], three for '
    'each keypoint. MMPose stops, for crowds too.',
)
KEYPOINTS_NUMBER = _error(
    'number of keypoints',
    'More or fewer keypoints than the category names (or, if it names none, than the '
    "first person has), or than the config's metainfo names: COCO's 17 if it says "
    'nothing. The job stops when it comes to it.',
)
NOT_FINITE = _error(
    'not finite',
    'A NaN, an infinity or a number beyond 1e30 in the box, the keypoints or the '
    'area. In a flag it makes the loss NaN, and then every weight; in a coordinate the '
    'keypoint is lost without a word, or the crop is a wrong one.',
)
FLAG_NEGATIVE = _error(
    'negative flag',
    'A visibility flag below 0: it becomes a negative weight in the loss, which then '
    'grows where it should fall. Flags are 0 (not labelled), 1 (hidden), 2 (visible).',
)
FLAG_UNKNOWN = _warning(
    'unknown flag',
    'A visibility flag other than 0 (not labelled), 1 (hidden), 2 (visible). Between '
    '0 and 1 it is a weight in the loss (below 0.5, one that is learned as absent), '
    'above 1 it counts as 1.',
)
NUM_KEYPOINTS_ZERO = _error(
    'num_keypoints is 0',
    '"num_keypoints" says 0 but flags say that some are labelled. Training leaves the '
    'person out. Correct or drop "num_keypoints".',
)
NUM_KEYPOINTS = _warning(
    'num_keypoints differs',
    '"num_keypoints" is not the number of flags above 0. Training and evaluation only '
    'ask whether it is 0, other tools trust it.',
)
ALL_INVISIBLE = _error(
    'all invisible',
    'Keypoints are given or counted, but every flag is 0. MMPose reads the person and '
    'gives every keypoint the weight 0: a loss of zero. Set the flags to 1 or 2.',
)
NORMALISED = _error(
    'normalised',
    'Coordinates from 0 to 1 where pixels are expected: the person is the size of a '
    'point in the corner. Multiply by the width and height of the image.',
)
AT_ORIGIN = _warning(
    'keypoint at (0, 0)',
    'Labelled, and in the very corner: often a keypoint that is not known. Its flag '
    'has to be 0 then, or the corner is learned.',
)
ALL_AT_ORIGIN = _error(
    'all keypoints at (0, 0)',
    'Labelled, but all in the very corner: training leaves the person out without a '
    'word. If they are not known, their flags have to be 0.',
)
ALL_OUTSIDE_IMAGE = _error(
    'all outside the image',
    'All labelled keypoints lie outside the picture: the loss is zero, or nothing '
    'right can be learned.',
)
OUTSIDE_IMAGE = _warning(
    'keypoint outside the image',
    'Some labelled keypoints lie outside the picture.',
)
ALL_OFF_BOX = _error(
    'all far from the box',
    'All labelled keypoints lie farther from the box than its longer side: the crop '
    'shows none, and the loss is zero. Do box and keypoints belong together? Is the '
    'box [x, y, width, height] with (x, y) its top left corner?',
)
OFF_BOX = _warning(
    'keypoint far from the box',
    'Some labelled keypoints are farther from the box than a quarter of its longer '
    'side; the crop may not show them. If there are many: is the box '
    '[x, y, width, height] with (x, y) its top left corner?',
)
BOX_MISSING = _error(
    'no box',
    'No "bbox": training leaves the person out without a word, and evaluation '
    "stops with KeyError: 'bbox'.",
)
BOX_FORM = _error(
    'box form', '"bbox" has to be 4 numbers [x, y, width, height]. MMPose stops.'
)
BOX_EMPTY = _error(
    'box empty',
    'Width or height is 0 or less: training leaves the person out without a word.',
)
BOX_OUTSIDE = _error(
    'box outside',
    'The box lies outside the image: training leaves the person out without a word.',
)
BOX_BEYOND = _warning(
    'box partly outside', 'The box reaches beyond the image; MMPose cuts it there.'
)
BOX_CORNERS = _error(
    'box of two corners',
    'The boxes look like [x1, y1, x2, y2]: so read they hold the keypoints and fit '
    'the image, but as [x, y, width, height] they reach beyond it. The person is then '
    'small and off-centre in the crop. Subtract x1 and y1.',
)
AREA_MISSING = _error(
    'no area',
    'No "area", or not a number. Training does without, but evaluation stops at a '
    "missing one with KeyError: 'area'. 0.53 x width x height of the box will do.",
)
AREA_ZERO = _error(
    'area of 0',
    'The similarity of keypoints (OKS) divides by the area: no prediction is ever '
    'right, and AP stays at 0 however well training goes. 0.53 x width x height of '
    'the box will do.',
)
AREA_ODD = _warning(
    'area unlike the box',
    'The area is below 1 % or above 150 % of that of the box: evaluation is too '
    'strict, or too kind.',
)
CROWD_FLAG = _warning(
    'crowd flag',
    '"iscrowd" is 0 or 1. All else that is not 0, "0" as a text too, counts as a '
    'crowd, and training leaves the person out.',
)
CROWD_LABELLED = _warning(
    'crowd with keypoints',
    'Training leaves crowds out, keypoints or not.',
)
