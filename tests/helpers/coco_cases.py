"""People and poses that CocoMetric compares, and what xtcocotools made of them.

The table beside the tests is made once, where the original is installed: Python 3.11
with MMPose 1.3.2, NumPy 1.26.4, xtcocotools 1.14.3 and OpenCV 4.11.0.86.

    SAPIENS_XTCOCOTOOLS=1 PYTHONPATH=. python tests/helpers/coco_cases.py TABLE
"""

import json
import sys
import tempfile
from pathlib import Path
from random import Random

import numpy as np

from sapiens_plugin.core.coco.keypoints import WHOLEBODY_FIELDS as WHOLE

TABLE = Path(__file__).parents[1] / 'compat' / 'xtcocotools.json'
# Annotations of the quickstart's data, and what its model makes of the pictures.
TRAINED = TABLE.with_name('trained_poses.json')
BODY = {'keypoints': 17}
_MODES = [
    dict(nms_mode=nms, score_mode=score, nms_thr=0.6)
    for nms in ('oks_nms', 'soft_oks_nms', 'none')
    for score in ('bbox', 'keypoint', 'bbox_keypoint', 'bbox_rle')
]
# Options of the people, then those of the metric.
CASES = {
    'a trained model': (None, {}),
    'COCO': (dict(images=60), {}),
    'boxes of annotations': (dict(images=30, boxes=False), {}),
    'annotations of the data set': (dict(images=20), dict(ann_file=None)),
    'no areas': (dict(images=30, areas=False), dict(use_area=False)),
    'areas unused': (dict(images=30), dict(use_area=False)),
    'five keypoints': (dict(images=30, fields={'keypoints': 5}), {}),
    'one keypoint': (dict(images=30, fields={'keypoints': 1}), {}),
    'CrowdPose': (
        dict(images=60, fields={'keypoints': 14}, areas=False),
        dict(iou_type='keypoints_crowd', use_area=False),
    ),
    'CrowdPose, all easy': (
        dict(images=20, fields={'keypoints': 14}, areas=False, crowding=0.1),
        dict(iou_type='keypoints_crowd', use_area=False),
    ),
    'hardly anybody labelled': (dict(images=20, unlabelled=0.8), {}),
    'two categories': (dict(images=30, categories=2), {}),
    'whole body': (dict(images=20, fields=WHOLE), {}),
    'whole body, no areas': (
        dict(images=12, fields=WHOLE, areas=False),
        dict(use_area=False),
    ),
} | {
    f'{modes["nms_mode"]}, {modes["score_mode"]}': (dict(images=12), modes)
    for modes in _MODES
}
KINDS = [
    'keypoints_body', 'keypoints_foot', 'keypoints_face', 'keypoints_lefthand',
    'keypoints_righthand', 'keypoints_wholebody',
]  # fmt: skip


class People:
    """Annotated people and poses near them, always the same.

    ``Random.random`` gives the same numbers in every version of Python.

    Args:
        images: How many, 640 × 480 px.
        fields: Fields of keypoints, and how many are in each.
        unlabelled: The share of people without labels.
        categories: How many.
        areas: Whether annotations have areas.
        boxes: Whether poses have boxes, and areas of boxes.
        crowding: The crowdIndex of all images, where they do not vary.
    """

    def __init__(
        self,
        *,
        images: int,
        fields: dict = BODY,
        unlabelled: float = 0.15,
        categories: int = 1,
        areas: bool = True,
        boxes: bool = True,
        crowding: float | None = None,
    ):
        self._random = Random(images * 1000 + sum(fields.values()))
        self._unlabelled = unlabelled
        self.fields, self._areas, self._boxes = fields, areas, boxes
        self.count = sum(fields.values())
        sigmas = [0.03 + 0.001 * (i % 50) for i in range(self.count)]
        self.sigmas = np.array(sigmas, np.float32)  # as metainfo has them
        self.images, self.annotations, self.results = [], [], []
        self.categories = [{'id': i + 1, 'name': f'{i}'} for i in range(categories)]
        for number in range(images):
            # Not in order, and the id 0 is one like others.
            id = (number * 7) % images if images % 7 else number
            index = self._uniform(0, 1) if crowding is None else crowding
            image = {'id': id, 'width': 640, 'height': 480, 'crowdIndex': index}
            self.images.append(image)
            self._populate(id)

    def _uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self._random.random()

    def _populate(self, image: int) -> None:
        inhabitants = [self._person(image) for _ in range(int(self._uniform(0, 7)))]
        for rank in range(int(self._uniform(0, 28))):
            self._pose(image, inhabitants, rank)
        if self.results:  # a sampler that fills up batches repeats samples
            self.results.append(self.results[-1])

    def _box(self) -> list[float]:
        side = 10 ** self._uniform(1, 2.4)
        return [self._uniform(0, 300), self._uniform(0, 200), side, side * 1.4]

    def _points(self, box: list[float]) -> np.ndarray:
        draw = [self._random.random() for _ in range(2 * self.count)]
        return np.array(box[:2]) + np.array(draw).reshape(-1, 2) * box[2:]

    def _person(self, image: int) -> tuple[list[float], np.ndarray]:
        box = self._box()
        points = self._points(box)
        flags = np.array([int(self._uniform(0, 3)) for _ in range(self.count)])
        if self._uniform(0, 1) < self._unlabelled:
            flags[:] = 0
        labels = np.c_[points * (flags > 0)[:, None], flags].round(2)
        annotation = {
            'id': len(self.annotations),
            'image_id': image,
            'category_id': 1 + int(self._uniform(0, len(self.categories))),
            'bbox': box,
            'iscrowd': int(self._uniform(0, 1) < 0.1),
            'num_keypoints': int((flags == 2).sum()),  # as CrowdPose counts
        }
        if self._areas:
            annotation['area'] = box[2] * box[3] * self._uniform(0.2, 0.8)
        start = 0
        for name, count in self.fields.items():
            annotation[name] = labels[start : start + count].ravel().tolist()
            start += count
        self.annotations.append(annotation)
        return box, points

    def _pose(self, image: int, inhabitants: list, rank: int) -> None:
        if inhabitants and self._uniform(0, 1) < 0.7:
            box, points = inhabitants[int(self._uniform(0, len(inhabitants)))]
            size = box[2] * 10 ** self._uniform(-2.5, -0.5)
            noise = [self._uniform(-1, 1) for _ in range(points.size)]
            points = points + np.array(noise).reshape(points.shape) * size
        else:
            box = self._box()
            points = self._points(box)
        scores = np.array([self._random.random() for _ in range(self.count)])
        if self._uniform(0, 1) < 0.05:
            scores[:] = 0  # which is no pose
        pose = {
            'id': len(self.results),
            'img_id': image,
            'category_id': 1 + int(self._uniform(0, len(self.categories))),
            'keypoints': points[None].astype(np.float32),
            'keypoint_scores': scores[None].astype(np.float32),
            # Equal to some of other images. The order in which MMPose's suppression
            # takes equal ones of an image is the CPU's.
            'bbox_scores': np.array(
                [round(self._uniform(0.1, 0.9), 1) + rank / 1000], np.float32
            ),
        }
        if self._boxes:
            pose['bbox'] = np.array([box], np.float32)
            pose['areas'] = np.array([box[2] * box[3] * 1.5625], np.float32)
        self.results.append(pose)

    def truth(self, pose: dict) -> dict:
        """Return what ``process`` keeps of the annotations beside a pose."""
        image = pose['img_id']
        own = [a for a in self.annotations if a['image_id'] == image]
        first = next(p for p in self.results if p['img_id'] == image) is pose
        return {
            'img_id': image,
            'width': 640,
            'height': 480,
            'raw_ann_info': own if first else [],
        }


class TrainedPoses(People):
    """People of the quickstart, and the poses that its model finds."""

    def __init__(self):
        vars(self).update(json.loads(TRAINED.read_text(encoding='utf-8')))
        self.fields, self.count = BODY, 17
        self.sigmas = np.array(self.sigmas, np.float32)
        for id, pose in enumerate(self.results):
            points = np.array(pose['keypoints'], np.float32).reshape(1, 17, 3)
            box = np.array([pose['bbox']], np.float32)
            pose.update(
                id=id,
                img_id=pose['image_id'],
                keypoints=points[..., :2],
                keypoint_scores=points[..., 2],
                bbox_scores=np.array([pose['score']], np.float32),
                bbox=box,
                areas=box[:, 2] * box[:, 3] * np.float32(1.5625),
            )


def numbers(name: str, folder: Path) -> dict[str, list[float]]:
    """Evaluate a case; return the metric's numbers, and those of each part."""
    from mmpose.evaluation.metrics import CocoMetric, CocoWholeBodyMetric
    from xtcocotools.cocoeval import COCOeval

    options, settings = CASES[name]
    people = TrainedPoses() if options is None else People(**options)
    truth = folder / 'truth.json'
    names = ('images', 'annotations', 'categories')
    content = {key: getattr(people, key) for key in names}
    truth.write_text(json.dumps(content), encoding='utf-8')
    wholebody = people.fields is WHOLE
    kind = CocoWholeBodyMetric if wholebody else CocoMetric
    settings = (
        dict(ann_file=str(truth), outfile_prefix=str(folder / 'found')) | settings
    )
    metric = kind(**settings)
    metric.dataset_meta = {
        'dataset_name': 'cases',
        'sigmas': people.sigmas,
        'num_keypoints': people.count,
        'CLASSES': people.categories,
    }
    results = [(dict(pose), people.truth(pose)) for pose in people.results]
    found = {'metric': list(map(float, metric.compute_metrics(results).values()))}
    if wholebody:
        poses = metric.coco.loadRes(str(folder / 'found.keypoints.json'))
        ends = np.cumsum([0, *WHOLE.values()])
        spans = [slice(*ends[i : i + 2]) for i in range(len(WHOLE))] + [slice(None)]
        for part, span in zip(KINDS, spans, strict=True):
            evaluation = COCOeval(
                metric.coco, poses, part, people.sigmas[span], metric.use_area
            )
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            found[part] = evaluation.stats.tolist()
    return found


def main() -> None:
    """Write the table."""
    import sapiens_plugin.registry  # noqa: F401  (makes MMPose importable)

    table = {}
    for name in CASES:
        with tempfile.TemporaryDirectory() as folder:
            table[name] = numbers(name, Path(folder))
    text = json.dumps(table, indent=1)
    Path(sys.argv[1]).write_text(text + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
