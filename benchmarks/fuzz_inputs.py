"""Throw broken annotation files, detections and images at the data sets, and watch.

Each case spoils a good file: annotations and detections in their structure (values of
other kinds, entries gone, doubled or swapped) or in their bytes, images in their bytes.
Then the data sets of training, validation and testing are built from it as a job does,
with their pipelines and their metric. A case is good if it works, or is refused by the
project's own InputError. Any other error, a case that takes long, and memory that
grows are not; the exit code is 1 then. Every case follows from --seed and its number.
"""

import argparse
import contextlib
import copy
import faulthandler
import gc
import io
import json
import math
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import psutil
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from PIL import Image

import sapiens_plugin.registry  # noqa: F401  (first: it repairs what is imported)
from sapiens_plugin.core.images.decode import decode
from sapiens_plugin.core.utils.listing import missing
from sapiens_plugin.datasets.blank_images import BlankUnreadable
from sapiens_plugin.datasets.parts import image_paths
from sapiens_plugin.errors import InputError, UnreadableImage
from sapiens_plugin.workbench.demo.make_demo import make_demo

from mmpose.datasets import CocoDataset  # isort: skip
from mmpose.evaluation.metrics import CocoMetric  # isort: skip

CONFIG = Path(__file__).parents[1] / 'configs' / 'sapiens_tiny_demo.py'
SLOW = 10  # s a case, on a busy machine
HANGS = 120  # s; then Python ends with a trace of where it is
WARM = 0.3  # of the time; memory is compared from then on
VALUES = (
    *(None, True, False, '', 'x', '1', 'a/../../b', '/dev/zero', '\0', '\ud800'),
    *(0, -1, 1, 2**31, 2**63, 10**400, 0.5, -0.0, 1e-300, 1e30, 1e308),
    *(math.nan, math.inf, -math.inf, [], {}, [[]], [None], {'a': 1}, [1, 2], [0] * 51),
)


@dataclass
class Outcome:
    """What came of many cases.

    Attributes:
        cases: How many there were.
        refused: How many of them were refused by InputError.
        failures: The others that did not work, by their number: a traceback.
        slowest: Seconds of the longest case.
        growth: Resident memory at the end above that after the first third, MiB.
    """

    cases: int = 0
    refused: int = 0
    failures: dict[int, str] = field(default_factory=dict)
    slowest: float = 0.0
    growth: float = 0.0


def main() -> None:
    """Fuzz for a while."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seconds', type=float, default=60, help='of each kind')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--kinds', nargs='+', choices=KINDS, default=list(KINDS))
    args = parser.parse_args()
    failed = False
    for kind in args.kinds:
        with tempfile.TemporaryDirectory() as folder:
            outcome = fuzz(kind, Path(folder), seconds=args.seconds, seed=args.seed)
        print(
            f'{kind}: {outcome.cases:,} cases, {outcome.refused:,} refused, '
            f'{len(outcome.failures)} failed; the slowest took {outcome.slowest:.2f} '
            f's, memory grew by {outcome.growth:.1f} MiB'
        )
        for number, text in list(outcome.failures.items())[:5]:
            print(f'--- {kind}, case {number} of seed {args.seed}\n{text}')
        failed |= bool(outcome.failures) or outcome.slowest > SLOW
    sys.exit(1 if failed else 0)


def fuzz(kind: str, folder: Path, *, seconds: float, seed: int) -> Outcome:
    """Run cases of one kind, in an empty folder, for so long."""
    init_default_scope('mmpose')
    cv2.utils.logging.setLogLevel(0)
    run = KINDS[kind](folder)
    outcome, process = Outcome(), psutil.Process()
    # Each data set collects garbage; what is here already need not be looked through.
    gc.freeze()
    begin, warm = time.monotonic(), 0
    while (elapsed := time.monotonic() - begin) < seconds:
        if not warm and elapsed > WARM * seconds:
            warm = process.memory_info().rss
        faulthandler.dump_traceback_later(HANGS, exit=True)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                run(random.Random(f'{seed} {kind} {outcome.cases}'))
        except InputError:
            outcome.refused += 1
        except Exception:  # noqa: BLE001  (finding these is what this is for)
            outcome.failures[outcome.cases] = traceback.format_exc()
        outcome.slowest = max(outcome.slowest, time.monotonic() - begin - elapsed)
        outcome.cases += 1
    gc.unfreeze()
    faulthandler.cancel_dump_traceback_later()
    outcome.growth = (process.memory_info().rss - warm) / 2**20
    return outcome


class Annotations:
    """Cases of annotation files, which the three data sets are built from."""

    def __init__(self, folder: Path):
        self._jobs = _Jobs(folder)

    def __call__(self, rng: random.Random) -> None:
        """Run a case."""
        jobs = self._jobs
        jobs.path.write_bytes(spoiled_json(jobs.content, rng))
        jobs.train(rng)
        jobs.validate(rng)


class Detections:
    """Cases of files of detected boxes."""

    def __init__(self, folder: Path):
        self._jobs = _Jobs(folder)
        self._boxes = [
            {
                'image_id': image['id'],
                'category_id': 1,
                'bbox': [5.0, 6.0, 40.0, 50.0],
                'score': 0.9,
            }
            for image in self._jobs.content['images'] * 2
        ]

    def __call__(self, rng: random.Random) -> None:
        """Run a case."""
        jobs = self._jobs
        jobs.path.write_text(json.dumps(jobs.content), encoding='utf-8')
        boxes = jobs.path.with_name('boxes.json')
        boxes.write_bytes(spoiled_json(self._boxes, rng))
        jobs.validate(rng, bbox_file=str(boxes))


class Images:
    """Cases of images."""

    def __init__(self, folder: Path):
        demo = make_demo(folder, num_train=1, num_val=1)
        (path,) = demo.images('val').iterdir()
        with Image.open(path) as picture:
            self._files = list(_encodings(picture.convert('RGB').resize((160, 120))))

    def __call__(self, rng: random.Random) -> None:
        """Run a case."""
        data = spoiled_bytes(rng.choice(self._files), rng)
        size = rng.choice([None, (160, 120), (120, 160)])
        picture = decode(data, 'image', labelled_size=size)
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise TypeError(f'{picture.dtype} {picture.shape} is no picture')


KINDS: dict[str, Callable] = {
    'annotations': Annotations,
    'detections': Detections,
    'images': Images,
}


class _Jobs:
    """What a job does with annotation files."""

    def __init__(self, folder: Path):
        demo = make_demo(folder, num_train=1, num_val=6)
        self.path = folder / 'annotations' / 'case.json'
        self.content = json.loads(demo.annotations('val').read_text(encoding='utf-8'))
        self._images = demo.images('val')
        # One that is there and cannot be read.
        (self._images / self.content['images'][2]['file_name']).write_bytes(b'\xff\xd8')
        cfg = Config.fromfile(CONFIG)
        self._pipelines = [
            cfg[f'{split}_dataloader'].dataset.pipeline for split in ('train', 'val')
        ]
        # Read once, and not in every case.
        source = CocoDataset.METAINFO['from_file']
        stock = Path(sys.modules['mmpose'].__file__).parent / '.mim' / source
        self._metainfo = Config.fromfile(stock).dataset_info.to_dict()

    def train(self, rng: random.Random) -> None:
        """Build the training set, look for its images, and make a few samples."""
        dataset = self._build(self._pipelines[0])
        list(missing('', image_paths(dataset)))
        np.random.seed(rng.randrange(2**32))
        for _ in range(2):
            with contextlib.suppress(UnreadableImage):  # another takes its place
                dataset[rng.randrange(len(dataset))]

    def validate(self, rng: random.Random, **options) -> None:
        """Build the validation set, and evaluate predictions on a few samples."""
        dataset = self._build(self._pipelines[1], test_mode=True, **options)
        metric = CocoMetric(str(self.path))
        metric.dataset_meta = dataset.metainfo
        dataset.pipeline = BlankUnreadable(dataset.pipeline)
        count = min(3, len(dataset))
        for index in rng.sample(range(len(dataset)), count):
            sample = dataset[index]['data_samples']
            found = InstanceData()
            found.keypoints = np.full((1, 17, 2), 9.0)
            found.keypoint_scores = np.full((1, 17), 0.5)
            sample.pred_instances = found
            metric.process([], [sample.to_dict()])
        metric.evaluate(count)

    def _build(self, pipeline: list, **options) -> CocoDataset:
        return CocoDataset(
            ann_file=str(self.path),
            data_prefix=dict(img=str(self._images)),
            metainfo=copy.deepcopy(self._metainfo),
            pipeline=pipeline,
            **options,
        )


def spoiled_json(content: object, rng: random.Random) -> bytes:
    """A content with a few things wrong in it, as bytes of JSON."""
    content = copy.deepcopy(content)
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        content = _spoil_structure(content, rng)
    # Lone halves of surrogate pairs stand in files as escapes.
    data = json.dumps(content, ensure_ascii=rng.random() < 0.5)
    data = data.encode(errors='surrogatepass')
    return spoiled_bytes(data, rng) if rng.random() < 0.2 else data


def _spoil_structure(content: object, rng: random.Random) -> object:
    """Change one place of a JSON content, at any depth."""
    if not isinstance(content, list | dict) or not content or rng.random() < 0.02:
        return copy.deepcopy(rng.choice(VALUES))
    at = rng.choice(list(content) if isinstance(content, dict) else range(len(content)))
    value = content[at]
    if isinstance(value, list | dict) and value and rng.random() < 0.85:
        content[at] = _spoil_structure(value, rng)
        return content
    what = rng.randrange(5)
    if what == 0:
        del content[at]
    elif what == 1 and isinstance(content, list):
        content.insert(rng.randrange(len(content) + 1), copy.deepcopy(value))
    elif what == 2:
        other = rng.choice(list(content) if isinstance(content, dict) else [-1])
        content[at], content[other] = content[other], content[at]
    elif what == 3 and isinstance(value, int | float) and abs(value) < 1e300:
        content[at] = value * rng.choice((-1, 0, 0.5, 1e3, 1e9, 10**40))
    else:
        content[at] = copy.deepcopy(rng.choice(VALUES))
    return content


def spoiled_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bytes of which some are others, gone, doubled, zero, or out of place."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if not data:
            break
        # The head of a file decides most.
        end = len(data) if rng.random() < 0.6 else min(len(data), 200)
        at = rng.randrange(end)
        length = rng.choice((1, 1, 2, 4, 16, 512))
        what = rng.randrange(6)
        if what == 0:
            data[at] = rng.randrange(256)
        elif what == 1:
            data[at : at + length] = rng.randbytes(length)
        elif what == 2:
            del data[at : at + length]
        elif what == 3:
            data[at:at] = data[at : at + length]
        elif what == 4:
            data[at : at + length] = bytes(length)
        else:
            del data[at:]
    return bytes(data)


def _encodings(picture: Image.Image):
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = picture.copy()
    clear.putalpha(90)
    for image, file_format, options in [
        (picture, 'JPEG', dict(exif=exif)),
        (picture, 'JPEG', dict(progressive=True)),
        (picture.convert('L'), 'JPEG', {}),
        (picture.convert('CMYK'), 'JPEG', {}),
        (picture, 'PNG', dict(exif=exif)),
        (clear, 'PNG', {}),
        (picture.convert('P'), 'PNG', {}),
        (picture, 'WEBP', {}),
        (clear, 'WEBP', dict(exif=exif)),
        (picture, 'BMP', {}),
        (picture, 'TIFF', {}),
        (picture, 'TIFF', dict(compression='tiff_lzw')),
        (picture, 'TIFF', dict(compression='jpeg')),
    ]:
        file = io.BytesIO()
        image.save(file, file_format, **options)
        yield file.getvalue()
    deep = np.asarray(picture).astype(np.uint16) * 257
    for suffix in ('.png', '.tif'):
        for pixels in (deep, deep[:, :, 0]):
            yield cv2.imencode(suffix, pixels)[1].tobytes()


if __name__ == '__main__':
    main()
