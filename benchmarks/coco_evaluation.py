"""Time the evaluation of a test set, ``CocoMetric.compute_metrics``, beside stock.

As many images as COCO's validation set has, with as many poses as its file of person
detections has boxes. Each row is a process of its own, in turn. Memory is what the
process takes at most while it evaluates: in all, and beyond what it took before, poses
included. The results are written to a file, as in a training.

Stock needs xtcocotools, which can be built for Python 3.11 and 3.12:

    pip install cython
    pip install --no-build-isolation --no-deps xtcocotools==1.14.3 --no-binary :all:
"""

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

KEYPOINTS = 17
ROWS = {'this plugin': '0', 'stock MMPose': '1'}


def main() -> None:
    """Print a table as Markdown, and by how much numbers and files differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--images', type=int, default=5000)
    parser.add_argument('--poses', type=int, default=104_125)
    parser.add_argument('--runs', type=int, default=3)
    parser.add_argument('--json', type=Path, help='write the figures there, too')
    parser.add_argument('--part', type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        print(json.dumps(measure(args, args.part)))
        return
    names = list(ROWS)
    try:
        importlib.import_module('xtcocotools.mask')
    except (ImportError, ValueError) as error:  # the latter: built for another NumPy
        print(f'Only the plugin is measured: xtcocotools does not start ({error}).\n')
        names = names[:1]
    with tempfile.TemporaryDirectory() as folder:
        rows = {name: [] for name in names}
        for _ in range(args.runs):
            for name in names:
                rows[name].append(run(args, name, Path(folder, name)))
        print('| | seconds | memory, MiB | of that for evaluating |')
        print('|---|---|---|---|')
        for name, runs in rows.items():
            medians = [
                statistics.median(figures[key] for figures in runs)
                for key in ('seconds', 'peak_mib', 'more_mib')
            ]
            print(
                f'| {name} | {medians[0]:.1f} | {medians[1]:.0f} | {medians[2]:.0f} |'
            )
        if len(names) == 2:
            ours, stock = (rows[name][0]['metrics'] for name in names)
            worst = max(abs(ours[key] - value) for key, value in stock.items())
            print(f'\nLargest difference of the numbers: {worst:.1e}.')
            print(f'Of the files: {compare(*(Path(folder, name) for name in names))}.')
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2), encoding='utf-8')


def compare(*folders: Path) -> str:
    """Say by how much the files of results differ."""
    paths = [folder / 'poses.keypoints.json' for folder in folders]
    ours, stock = (json.loads(path.read_text('utf-8')) for path in paths)
    if ours == stock:
        return 'none'
    scores = [abs(a['score'] - b['score']) for a, b in zip(ours, stock, strict=True)]
    rest = [[{**pose, 'score': 0} for pose in poses] for poses in (ours, stock)]
    same = 'equal' if rest[0] == rest[1] else 'NOT equal'
    return f'scores {max(scores):.1e}, all else {same}'


def run(args: argparse.Namespace, name: str, folder: Path) -> dict:
    """Measure in a child, which nothing before it has loaded anything into."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, __file__, '--part', str(folder)]
    command += ['--images', str(args.images), '--poses', str(args.poses)]
    environment = dict(os.environ, SAPIENS_XTCOCOTOOLS=ROWS[name])
    child = subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=True)
    return json.loads(child.stdout.splitlines()[-1])


def measure(args: argparse.Namespace, folder: Path) -> dict:
    """Evaluate once; return seconds, memory and the numbers."""
    import sapiens_plugin.registry  # noqa: F401  (first: it repairs what is imported)

    from mmpose.evaluation import CocoMetric  # isort: skip

    random = np.random.default_rng(0)
    people = make_people(random, args.images)
    truth = folder / 'truth.json'
    truth.write_text(json.dumps(people), encoding='utf-8')
    metric = CocoMetric(str(truth), outfile_prefix=str(folder / 'poses'))
    metric.dataset_meta = {
        'dataset_name': 'people',
        'num_keypoints': KEYPOINTS,
        'sigmas': np.linspace(0.025, 0.107, KEYPOINTS),
    }
    results = [(pose, {}) for pose in make_poses(random, people, args.poses)]
    del people
    process, done = psutil.Process(), threading.Event()
    before = process.memory_info().rss
    peak = [before]

    def watch() -> None:
        while not done.wait(0.05):
            peak[0] = max(peak[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    metrics = metric.compute_metrics(results)
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    return {
        'seconds': seconds,
        'peak_mib': peak[0] / 2**20,
        'more_mib': (peak[0] - before) / 2**20,
        'metrics': {name: float(value) for name, value in metrics.items()},
    }


def make_people(random: np.random.Generator, images: int) -> dict:
    """Draw annotations: 2.2 persons an image, as COCO has."""
    annotations = []
    for image in range(images):
        for _ in range(random.poisson(2.2)):
            width, height = 10 ** random.uniform(1.3, 2.5, size=2)
            box = [*random.uniform(0, 300, size=2), width, height]
            points = random.random((KEYPOINTS, 2)) * box[2:] + box[:2]
            flags = random.integers(0, 3, KEYPOINTS)
            labels = np.c_[points * (flags > 0)[:, None], flags].round(2)
            annotations.append(
                {
                    'id': len(annotations) + 1,
                    'image_id': image,
                    'category_id': 1,
                    'bbox': box,
                    'area': width * height * 0.5,
                    'iscrowd': int(random.random() < 0.03),
                    'keypoints': labels.ravel().tolist(),
                    'num_keypoints': int((flags > 0).sum()),
                }
            )
    return {
        'images': [{'id': i, 'width': 640, 'height': 480} for i in range(images)],
        'annotations': annotations,
        'categories': [{'id': 1, 'name': 'person'}],
    }


def make_poses(random: np.random.Generator, people: dict, count: int) -> list[dict]:
    """Draw poses, two in three of them near a person, as ``process`` keeps them."""
    of_image: dict[int, list[dict]] = {}
    for annotation in people['annotations']:
        of_image.setdefault(annotation['image_id'], []).append(annotation)
    poses = []
    for number in range(count):
        image = number * len(people['images']) // count
        inhabitants = of_image.get(image, [])
        if inhabitants and random.random() < 2 / 3:
            person = inhabitants[random.integers(len(inhabitants))]
            box = np.array(person['bbox'])
            points = np.array(person['keypoints']).reshape(-1, 3)[:, :2]
            points = points + random.normal(size=points.shape) * box[2] / 20
        else:
            box = random.uniform([0, 0, 20, 20], 300)
            points = random.random((KEYPOINTS, 2)) * box[2:] + box[:2]
        poses.append(
            {
                'id': number,
                'img_id': image,
                'category_id': 1,
                'keypoints': points[None].astype(np.float32),
                'keypoint_scores': random.random((1, KEYPOINTS), dtype=np.float32),
                'bbox': box[None].astype(np.float32),
                'bbox_scores': random.random(1, dtype=np.float32),
                'areas': np.array([box[2] * box[3] * 1.5625], np.float32),
            }
        )
    return poses


if __name__ == '__main__':
    main()
