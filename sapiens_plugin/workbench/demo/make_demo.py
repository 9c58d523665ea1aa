"""The demo data: a small COCO keypoint data set of drawn people, made in seconds.

``python -m sapiens_plugin.workbench.demo.make_demo ROOT`` writes::

    ROOT/annotations/person_keypoints_train.json
    ROOT/annotations/person_keypoints_val.json
    ROOT/images/train/000000000001.jpg …
    ROOT/images/val/000000000001.jpg …
    ROOT/sapiens_tiny_torchscript.pt2   stands in for the published pre-training file
    ROOT/demo.json                      what was made, written last
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from sapiens_plugin.core.coco.keypoints import person_category
from sapiens_plugin.core.utils.whole_file import whole_file, write_whole
from sapiens_plugin.errors import InputError
from sapiens_plugin.workbench.command import run
from sapiens_plugin.workbench.demo.drawn_people.scene import PersonLabel, draw_picture

_DRAWING = 2  # raise when the drawings change, so that old data is made anew
_SPLITS = ('train', 'val')
_JPEG_QUALITY = 94
_WEIGHTS = {
    'arch': {
        'embed_dims': 128,
        'num_layers': 4,
        'num_heads': 4,
        'feedforward_channels': 512,
    },
    'decoder_dims': 64,
    'decoder_layers': 2,
}


@dataclass(frozen=True)
class DemoPaths:
    """Where the demo data lies."""

    root: Path

    def annotations(self, split: str) -> Path:
        """COCO keypoint file of ``'train'`` or ``'val'``."""
        return self.root / 'annotations' / f'person_keypoints_{split}.json'

    def images(self, split: str) -> Path:
        """Folder with the pictures of ``'train'`` or ``'val'``."""
        return self.root / 'images' / split

    @property
    def weights(self) -> Path:
        """TorchScript archive of the published structure, with random weights."""
        return self.root / 'sapiens_tiny_torchscript.pt2'

    @property
    def manifest(self) -> Path:
        """What was made, file by file; written last."""
        return self.root / 'demo.json'


@dataclass(frozen=True)
class _Recipe:
    num_train: int
    num_val: int
    seed: int
    drawing: int = _DRAWING

    def __post_init__(self):
        if self.num_train < 1 or self.num_val < 1:
            raise InputError(
                f'The demo cannot have {self.num_train} training and {self.num_val} '
                'validation pictures; give at least 1 of each.'
            )
        if self.seed < 0:
            raise InputError(f'The demo seed {self.seed} is negative; give 0 or more.')

    def count(self, split: str) -> int:
        return self.num_train if split == 'train' else self.num_val


def make_demo(
    root: str | Path, *, num_train: int = 2000, num_val: int = 300, seed: int = 0
) -> DemoPaths:
    """Draw the demo data set under ``root``, unless just this one is there already.

    The same parameters give the same bytes. A data set of other parameters, or one
    that was interrupted or has lost files, is made anew.

    Args:
        root: Folder to fill; made where missing.
        num_train: Pictures to train on.
        num_val: Pictures to validate on; none of them is in the training set.
        seed: Whole number from 0; another one draws other pictures.

    Raises:
        InputError: A parameter is out of its range, ``root`` cannot be written, or it
            holds somebody else's data set.
    """
    recipe = _Recipe(num_train, num_val, seed)
    paths = DemoPaths(Path(root))
    if not _is_whole(paths, recipe):
        _clear(paths)
        for index, split in enumerate(_SPLITS):
            _draw_split(paths, split, recipe.count(split), (seed, index))
        _make_weights(paths.weights, seed)
        _write_manifest(paths, recipe, _sizes(paths))
    return paths


def _draw_split(
    paths: DemoPaths, split: str, count: int, seed: tuple[int, int]
) -> None:
    images, annotations = [], []
    for image_id in range(1, count + 1):
        picture = draw_picture(np.random.default_rng([*seed, image_id]))
        height, width = picture.image.shape[:2]
        name = f'{image_id:012}.jpg'
        _, jpeg = cv2.imencode(
            '.jpg', picture.image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
        )
        with whole_file(paths.images(split) / name) as file:
            file.write(jpeg.tobytes())
        images.append(
            {'id': image_id, 'file_name': name, 'width': width, 'height': height}
        )
        annotations += [
            {'id': len(annotations) + i, 'image_id': image_id, **_annotation(person)}
            for i, person in enumerate(picture.people, start=1)
        ]
    content = {
        'info': {'description': 'sapiens_plugin demo: drawn people', 'version': '1.0'},
        'licenses': [],
        'images': images,
        'annotations': annotations,
        'categories': [person_category()],
    }
    _write_json(paths.annotations(split), content)


def _annotation(person: PersonLabel) -> dict:
    keypoints = [
        number
        for x, y, visibility in person.keypoints.tolist()
        for number in (x, y, int(visibility))
    ]
    return {
        'category_id': 1,
        'iscrowd': 0,
        'bbox': list(person.box),
        'area': person.area,
        'num_keypoints': sum(v > 0 for v in keypoints[2::3]),
        'keypoints': keypoints,
    }


def _make_weights(path: Path, seed: int) -> None:
    # PyTorch takes seconds to import and is not needed to find a whole data set.
    from .stand_in import make_stand_in

    make_stand_in(path, seed=seed, **_WEIGHTS)


def _files(paths: DemoPaths) -> Iterator[Path]:
    """Every file of ours there is, but for the manifest; nobody else's."""
    if paths.weights.exists():
        yield paths.weights
    for split in _SPLITS:
        if paths.annotations(split).exists():
            yield paths.annotations(split)
        yield from sorted(paths.images(split).glob('[0-9]' * 12 + '.jpg'))


def _sizes(paths: DemoPaths) -> dict[str, int]:
    return {
        file.relative_to(paths.root).as_posix(): file.stat().st_size
        for file in _files(paths)
    }


def _is_whole(paths: DemoPaths, recipe: _Recipe) -> bool:
    try:
        manifest = json.loads(paths.manifest.read_text(encoding='utf-8'))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    return manifest == {'recipe': asdict(recipe), 'files': _sizes(paths)}


def _clear(paths: DemoPaths) -> None:
    """Make the folders ready, without a file of an earlier data set of ours.

    Raises:
        InputError: The folder is not ours, or cannot be written.
    """
    ours = paths.manifest.exists()
    foreign = [] if ours else list(_files(paths))
    if foreign:
        raise InputError(
            f'{paths.root} holds a data set that is not the demo ({foreign[0].name}, '
            f'but no {paths.manifest.name}). Nothing was changed; name another folder.'
        )
    try:
        paths.root.mkdir(parents=True, exist_ok=True)
        _write_manifest(paths, None, {})
        for file in list(_files(paths)):
            file.unlink()
        for split in _SPLITS:
            paths.images(split).mkdir(parents=True, exist_ok=True)
            paths.annotations(split).parent.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(
            f'The demo data cannot be written to {paths.root}: {error}. Name a folder '
            'that you may write to.'
        ) from error


def _write_manifest(
    paths: DemoPaths, recipe: _Recipe | None, files: dict[str, int]
) -> None:
    """Say what is there; without a recipe, that the folder is ours but unfinished."""
    content = {'recipe': asdict(recipe) if recipe else None, 'files': files}
    _write_json(paths.manifest, content)


def _write_json(path: Path, content: dict) -> None:
    write_whole(path, json.dumps(content, separators=(',', ':')))


def main(argv: list[str] | None = None) -> None:
    """Make the demo data as the command line asks."""
    parser = argparse.ArgumentParser(
        prog='python -m sapiens_plugin.workbench.demo.make_demo',
        description='Draw a small COCO keypoint data set of people.',
    )
    parser.add_argument('root', type=Path, help='folder to fill')
    parser.add_argument('--num-train', type=int, default=2000, metavar='N')
    parser.add_argument('--num-val', type=int, default=300, metavar='N')
    parser.add_argument('--seed', type=int, default=0, metavar='S')
    args = parser.parse_args(argv)
    start = time.perf_counter()
    paths = make_demo(
        args.root, num_train=args.num_train, num_val=args.num_val, seed=args.seed
    )
    print(
        f'{paths.root}: {args.num_train} training and {args.num_val} validation '
        f'pictures of drawn people, and {paths.weights.name} '
        f'({time.perf_counter() - start:.1f} s)'
    )


if __name__ == '__main__':
    run('make_demo', main)
