import contextlib
import io
import json
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sapiens_plugin.core.coco.keypoints import KEYPOINT_NAMES
from sapiens_plugin.errors import InputError
from sapiens_plugin.workbench.demo import make_demo as demo_module
from sapiens_plugin.workbench.demo.make_demo import main, make_demo

SIDES = 'left', 'right'


@pytest.fixture
def without_weights(monkeypatch):
    """Skip the second that tracing takes, where the weights do not matter."""
    monkeypatch.setattr(
        demo_module, '_make_weights', lambda path, seed: path.write_bytes(b'weights')
    )


def contents(root: Path) -> dict[str, bytes]:
    return {
        file.relative_to(root).as_posix(): file.read_bytes()
        for file in root.rglob('*')
        if file.is_file()
    }


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding='utf-8'))


def load_coco(annotations: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(annotations))


def keypoints(annotations: Path) -> np.ndarray:
    """Keypoints and visibility of every person, (P, 17, 3)."""
    people = read_json(annotations)['annotations']
    return np.array([p['keypoints'] for p in people], float).reshape(-1, 17, 3)


def boxes(annotations: Path) -> np.ndarray:
    return np.array([p['bbox'] for p in read_json(annotations)['annotations']], float)


def average_precision(annotations: Path, predicted: np.ndarray) -> float:
    """COCO AP of keypoints (P, 17, 2), in the order of the annotations."""
    truth = load_coco(annotations)
    results = [
        {
            'image_id': person['image_id'],
            'category_id': 1,
            'score': 1.0,
            'keypoints': np.column_stack([points, np.ones(17)]).ravel().tolist(),
        }
        for person, points in zip(
            read_json(annotations)['annotations'], predicted, strict=True
        )
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(results), 'keypoints')
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def column(name: str) -> int:
    return KEYPOINT_NAMES.index(name)


# What is in it


@pytest.mark.parametrize('split', ['train', 'val'])
def test_annotations_fit_their_pictures(large_demo, split):
    coco = load_coco(large_demo.annotations(split))
    assert len(coco.imgs) == {'train': 300, 'val': 120}[split]
    for image_id, info in coco.imgs.items():
        image = cv2.imread(str(large_demo.images(split) / info['file_name']))
        height, width = image.shape[:2]
        assert (info['width'], info['height']) == (width, height)
        people = coco.loadAnns(coco.getAnnIds(imgIds=image_id))
        assert 1 <= len(people) <= 2
        for person in people:
            x, y, w, h = person['bbox']
            assert 0 <= x < x + w <= width and 0 <= y < y + h <= height
            assert 0 < person['area'] <= w * h
            assert person['iscrowd'] == 0 and person['category_id'] == 1
            points = np.array(person['keypoints']).reshape(17, 3)
            labelled = points[:, 2] > 0
            assert person['num_keypoints'] == labelled.sum() >= 5
            assert (points[~labelled] == 0).all()
            limits = np.array([width, height]) - 0.5
            assert (points[labelled, :2] >= -0.5).all()
            assert (points[labelled, :2] < limits).all()
            seen = points[points[:, 2] == 2, :2]
            assert (seen >= (x - 1, y - 1)).all()
            assert (seen <= (x + w, y + h)).all()


def test_category_is_cocos(large_demo):
    (category,) = read_json(large_demo.annotations('val'))['categories']
    assert category['id'] == 1 and category['name'] == 'person'
    assert category['keypoints'] == list(KEYPOINT_NAMES)
    assert len(category['skeleton']) == 19
    assert category['skeleton'][0] == [16, 14]


def test_people_are_varied(large_demo):
    annotations = large_demo.annotations('train')
    points, visibility = np.split(keypoints(annotations), [2], axis=2)
    visibility = visibility[..., 0]
    # Every joint is now seen, now occluded; those at the borders are also cut off.
    for side in SIDES:
        for joint in ('shoulder', 'elbow', 'hip'):
            assert {1, 2} <= set(visibility[:, column(f'{side}_{joint}')])
        for joint in ('wrist', 'knee', 'ankle'):
            assert {0, 1, 2} == set(visibility[:, column(f'{side}_{joint}')])
    assert 0.6 < (visibility == 2).mean() < 0.9
    assert (visibility == 1).mean() > 0.03
    # Some turn their back, and show no nose.
    assert 0.1 < (visibility[:, column('nose')] == 0).mean() < 0.4
    # Left is now on one side of the picture, now on the other.
    left, right = (points[:, column(f'{side}_shoulder'), 0] for side in SIDES)
    assert 0.15 < (left < right).mean() < 0.45
    # COCO's medium and large both occur, and a wide range of heights.
    people = read_json(annotations)['annotations']
    areas = np.array([p['area'] for p in people])
    assert (areas < 96**2).sum() > 20 and (areas > 96**2).sum() > 20
    heights = boxes(annotations)[:, 3]
    assert heights.max() > 2.5 * heights.min()
    assert len(people) > len({p['image_id'] for p in people}) * 1.05


def test_the_left_side_is_the_lighter_one(large_demo):
    """So left and right can be told from the pixels, also from behind."""
    coco = load_coco(large_demo.annotations('val'))
    lighter = []
    for person in coco.anns.values():
        points = np.array(person['keypoints']).reshape(17, 3)
        pair = points[[column(f'{side}_elbow') for side in SIDES]]
        if (pair[:, 2] < 2).any():
            continue
        name = coco.imgs[person['image_id']]['file_name']
        grey = cv2.imread(str(large_demo.images('val') / name), cv2.IMREAD_GRAYSCALE)
        left, right = (grey[round(y), round(x)] for x, y, _ in pair)
        lighter.append(left > right)
    assert len(lighter) > 40
    assert np.mean(lighter) > 0.95


def test_training_and_validation_share_no_picture(large_demo):
    train, val = (
        {file.read_bytes() for file in large_demo.images(split).iterdir()}
        for split in ('train', 'val')
    )
    assert len(train) == 300 and len(val) == 120
    assert not train & val


def test_a_model_that_ignores_the_picture_scores_near_zero(large_demo):
    """The mean pose of the training boxes, put into every validation box."""
    train = keypoints(large_demo.annotations('train'))
    corner, size = np.split(boxes(large_demo.annotations('train'))[:, None], 2, axis=2)
    labelled = train[..., 2:] > 0
    in_box = (train[..., :2] - corner) / size
    mean_pose = (in_box * labelled).sum(0) / labelled.sum(0)

    corner, size = np.split(boxes(large_demo.annotations('val'))[:, None], 2, axis=2)
    blind = average_precision(large_demo.annotations('val'), corner + mean_pose * size)
    assert blind < 0.1
    right = keypoints(large_demo.annotations('val'))[..., :2]
    assert average_precision(large_demo.annotations('val'), right) > 0.99


# When it is made


def test_same_seed_same_bytes(tmp_path, without_weights):
    for name in ('a', 'b'):
        make_demo(tmp_path / name, num_train=4, num_val=3, seed=5)
    assert contents(tmp_path / 'a') == contents(tmp_path / 'b')


def test_other_seed_other_pictures(tmp_path, without_weights):
    pictures = [
        set(
            make_demo(tmp_path / str(seed), num_train=4, num_val=3, seed=seed)
            .images('train')
            .iterdir()
        )
        for seed in (0, 1)
    ]
    first, second = ({file.read_bytes() for file in files} for files in pictures)
    assert not first & second


def test_fewer_pictures_are_the_first_of_more(tmp_path, without_weights):
    few = make_demo(tmp_path / 'few', num_train=2, num_val=1)
    more = make_demo(tmp_path / 'more', num_train=4, num_val=1)
    for file in few.images('train').iterdir():
        assert file.read_bytes() == (more.images('train') / file.name).read_bytes()


def test_a_second_call_changes_nothing(large_demo):
    def times():
        return {file: file.stat().st_mtime_ns for file in large_demo.root.rglob('*')}

    before = times()
    start = time.perf_counter()
    again = make_demo(large_demo.root, num_train=300, num_val=120)
    assert time.perf_counter() - start < 1
    assert again == large_demo
    assert before == {
        file: file.stat().st_mtime_ns for file in large_demo.root.rglob('*')
    }


def test_other_parameters_replace_the_data(tmp_path, without_weights):
    make_demo(tmp_path / 'a', num_train=6, num_val=3)
    (tmp_path / 'a' / 'images' / 'train' / 'mine.jpg').write_bytes(b'mine')
    make_demo(tmp_path / 'a', num_train=2, num_val=1, seed=3)
    make_demo(tmp_path / 'b', num_train=2, num_val=1, seed=3)
    replaced = contents(tmp_path / 'a')
    assert replaced.pop('images/train/mine.jpg') == b'mine'
    assert replaced == contents(tmp_path / 'b')


@pytest.mark.parametrize(
    ('file', 'size'),
    [
        ('annotations/person_keypoints_train.json', 100),
        ('images/val/000000000002.jpg', None),
        ('images/train/000000000001.jpg', 0),
        ('sapiens_tiny_torchscript.pt2', 3),
        ('demo.json', 40),
    ],
)
def test_damage_is_mended(tmp_path, without_weights, file, size):
    make_demo(tmp_path, num_train=3, num_val=2)
    whole = contents(tmp_path)
    damaged = tmp_path / file
    if size is None:
        damaged.unlink()
    else:
        damaged.write_bytes(whole[file][:size])
    make_demo(tmp_path, num_train=3, num_val=2)
    assert contents(tmp_path) == whole


def test_an_interrupted_call_is_taken_up(tmp_path, without_weights, monkeypatch):
    draw, drawn = demo_module.draw_picture, []

    def draw_two_only(rng):
        if len(drawn) == 2:
            raise KeyboardInterrupt
        drawn.append(rng)
        return draw(rng)

    with monkeypatch.context() as patch:
        patch.setattr(demo_module, 'draw_picture', draw_two_only)
        with pytest.raises(KeyboardInterrupt):
            make_demo(tmp_path / 'a', num_train=3, num_val=2)
    paths = make_demo(tmp_path / 'whole', num_train=3, num_val=2)
    half = contents(tmp_path / 'a')
    assert paths.annotations('train').relative_to(paths.root).as_posix() not in half
    assert 'images/train/000000000002.jpg' in half
    make_demo(tmp_path / 'a', num_train=3, num_val=2)
    assert contents(tmp_path / 'a') == contents(paths.root)


def test_somebody_elses_data_is_left_alone(tmp_path, without_weights):
    theirs = tmp_path / 'images' / 'train' / '000000000009.jpg'
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b'theirs')
    with pytest.raises(InputError, match=r'000000000009\.jpg.*name another folder'):
        make_demo(tmp_path, num_train=2, num_val=1)
    assert contents(tmp_path) == {'images/train/000000000009.jpg': b'theirs'}


@pytest.mark.parametrize(
    'wrong', [{'num_train': 0}, {'num_val': -1}, {'seed': -3}], ids=str
)
def test_impossible_parameters(tmp_path, wrong):
    (value,) = wrong.values()
    with pytest.raises(InputError, match=str(value)):
        make_demo(tmp_path / 'demo', **wrong)
    assert not (tmp_path / 'demo').exists()


def test_a_file_in_the_way(tmp_path):
    in_the_way = tmp_path / 'demo'
    in_the_way.write_bytes(b'mine')
    with pytest.raises(InputError, match=r'cannot be written to .*demo'):
        make_demo(in_the_way, num_train=1, num_val=1)
    assert in_the_way.read_bytes() == b'mine'


# On the command line


def test_command_says_what_it_made(tmp_path):
    root = tmp_path / 'Démo 1'
    command = [
        sys.executable,
        '-W',
        'error',
        '-m',
        'sapiens_plugin.workbench.demo.make_demo',
    ]
    done = subprocess.run(
        [*command, root, '--num-train', '3', '--num-val', '2', '--seed', '1'],
        capture_output=True,
        encoding='utf-8',
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ''
    assert '3 training and 2 validation pictures' in done.stdout
    assert len(list(root.glob('images/*/*.jpg'))) == 5


def test_command_refuses_in_one_paragraph(tmp_path):
    with pytest.raises(InputError, match='at least 1'):
        main([str(tmp_path / 'demo'), '--num-train', '0'])
