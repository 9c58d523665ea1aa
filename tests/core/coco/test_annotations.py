import copy
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from sapiens_plugin.core.coco.annotations import image_names, keypoint_images
from sapiens_plugin.core.coco.keypoints import person_category
from sapiens_plugin.errors import InputError

KEYPOINTS = [20.0, 30.0, 2] * 3 + [0, 0, 0] * 14


def image(number, **changes):
    return {
        'id': number,
        'file_name': f'{number}.jpg',
        'width': 100,
        'height': 80,
        **changes,
    }


def person(number, image_id, without=(), **changes):
    entry = {
        'id': number,
        'image_id': image_id,
        'category_id': 1,
        'bbox': [10, 10, 50, 60],
        'area': 1500.0,
        'iscrowd': 0,
        'num_keypoints': 3,
        'keypoints': list(KEYPOINTS),
        **changes,
    }
    return {key: value for key, value in entry.items() if key not in without}


def write(folder: Path, images, annotations, *, order=None) -> Path:
    content = {
        'info': {'year': 2017},
        'images': images,
        'annotations': annotations,
        'categories': [person_category()],
    }
    path = folder / 'annotations.json'
    names = order or list(content)
    path.write_text(
        json.dumps({name: content[name] for name in names}), encoding='utf-8'
    )
    return path


def stock(path: Path, root: Path = Path()) -> Counter:
    """What MMPose's own data set reads: how many persons of which file."""
    from mmpose.datasets import CocoDataset

    dataset = CocoDataset(
        ann_file=str(path), data_prefix=dict(img=''), serialize_data=False
    )
    return Counter(info['img_path'] for info in dataset)


@pytest.fixture(autouse=True)
def stock_is_ready(stock_coco):
    pass


CASES = {
    'plain': {},
    'crowd': {'iscrowd': 1},
    'crowd as a word': {'iscrowd': True},
    'crowd unsaid': {'without': ['iscrowd']},
    'none labelled': {'num_keypoints': 0, 'keypoints': [0] * 51},
    'none counted': {'num_keypoints': 0},
    'none counted as a float': {'num_keypoints': 0.0},
    'uncounted': {'without': ['num_keypoints']},
    'uncounted and none': {'without': ['num_keypoints'], 'keypoints': [0] * 51},
    'counted wrongly': {'num_keypoints': 5, 'keypoints': [0] * 51},
    'invisible': {'num_keypoints': 0, 'keypoints': [20, 30, 0] * 17},
    'invisible, counted': {'keypoints': [20, 30, 0] * 17},
    'visible at the origin': {'keypoints': [0, 0, 2] * 17},
    'left of the image': {'keypoints': [-5, 30, 2] * 17},
    'left and above': {'keypoints': [-5, -3, 2] * 17},
    'no box': {'without': ['bbox']},
    'no keypoints': {'without': ['keypoints']},
    'no area': {'without': ['area']},
    'no width': {'bbox': [10, 10, 0, 60]},
    'negative height': {'bbox': [10, 60, 30, -40]},
    'right of the image': {'bbox': [100, 10, 50, 60]},
    'in the last column': {'bbox': [99, 10, 50, 60]},
    'just before it': {'bbox': [98.5, 10, 50, 60]},
    'below the image': {'bbox': [10, 79, 50, 60]},
    'above the image': {'bbox': [10, -70, 50, 70]},
    'partly outside': {'bbox': [-10, -10, 500, 600]},
    'thinner than single precision': {'bbox': [50, 10, 1e-7, 60]},
    'not a number': {'bbox': [float('nan'), 10, 50, 60]},
    'keypoint not a number': {'keypoints': [float('nan'), 0, 2] + [0] * 48},
    'of another category': {'category_id': 3},
    'of an unknown image': {'image_id': 99},
}


@pytest.mark.parametrize('case', CASES)
def test_keeps_what_stock_keeps(tmp_path, case):
    entry = person(1, **{'image_id': 1, **CASES[case]})
    path = write(tmp_path, [image(1)], [entry])
    assert keypoint_images(path) == stock(path)


def test_some_of_the_cases_are_kept_and_some_are_not(tmp_path):
    images = [image(n) for n in range(len(CASES))]
    entries = [
        person(n, **{'image_id': n, **changes})
        for n, changes in enumerate(CASES.values())
    ]
    path = write(tmp_path, images, entries)
    kept = keypoint_images(path)
    assert kept == stock(path)
    assert len(kept) == 11


@pytest.mark.parametrize('seed', range(5))
def test_keeps_what_stock_keeps_in_a_mixture(tmp_path, seed):
    rng = random.Random(seed)
    images = [
        image(n, width=rng.choice([100, 37, 1, 99.5]), height=rng.choice([80, 12]))
        for n in rng.sample(range(1000), 30)
    ]
    entries = [
        person(
            n,
            **{
                'image_id': rng.choice(images)['id'],
                'bbox': [rng.uniform(-40, 120) for _ in range(4)],
                **rng.choice(list(CASES.values())),
            },
        )
        for n in range(80)
    ]
    parts = ['images', 'annotations', 'categories', 'info']
    expected = stock(write(tmp_path, images, entries))
    assert 5 < sum(expected.values()) < 70
    for _ in range(3):
        rng.shuffle(parts)
        path = write(tmp_path, images, entries, order=parts)
        assert keypoint_images(path) == expected
        assert image_names(path) == [entry['file_name'] for entry in images]


def test_real_annotations(coco_mini):
    path = coco_mini / 'test_coco.json'
    kept = keypoint_images(path)
    assert kept == stock(path)
    assert sum(kept.values()) > len(kept) > 1
    assert sorted(image_names(path)) == sorted(
        file.name for file in coco_mini.glob('*.jpg')
    )


def test_drawn_annotations(large_demo):
    path = large_demo.annotations('train')
    assert keypoint_images(path) == stock(path)
    assert image_names(path) == sorted(
        file.name for file in large_demo.images('train').iterdir()
    )


@pytest.mark.parametrize(
    ('images', 'entries', 'says'),
    [
        ([{}], [], r'images\[0\]: "id" is missing'),
        ([image('1')], [], r'images\[0\]: "id" is "1", and should be a whole num'),
        (
            [image(1), image(2, file_name=7)],
            [],
            r'images\[1\] \(id 2\): "file_name" is 7, and should be a text',
        ),
        ([image(1, width=None)], [], r'images\[0\] \(id 1\): "width" is null'),
        (
            [image(1, height='9')],
            [],
            r'\(id 1\): "height" is "9", and should be a number',
        ),
        (
            [image(1)],
            [person(1, '1')],
            r'annotations\[0\] \(id 1\): "image_id" is "1"',
        ),
        ([image(1)], [person(1, 1, bbox=[1, 2, 3])], '"bbox" has 3 numbers, and sho'),
        ([image(1)], [person(1, 1, bbox=7)], '"bbox" is 7, and should be a list of'),
        (
            [image(1)],
            [person(1, 1), person(2, 1, keypoints=[1, None, 2])],
            r'annotations\[1\] \(id 2\): "keypoints"\[1\] is null',
        ),
    ],
)
def test_says_which_entry_is_wrong(tmp_path, images, entries, says):
    path = write(tmp_path, images, entries)
    with pytest.raises(InputError, match=says) as caught:
        keypoint_images(path)
    assert str(path) in str(caught.value)


def test_names_are_needed(tmp_path):
    path = write(tmp_path, [image(1), {'id': 2}], [])
    with pytest.raises(InputError, match=r'images\[1\] \(id 2\): "file_name" is mis'):
        image_names(path)


def test_a_cut_file_is_refused(tmp_path, coco_mini):
    whole = (coco_mini / 'test_coco.json').read_bytes().rstrip()
    path = tmp_path / 'cut.json'
    for length in (0, 1, 1000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r'cut\.json is cut short'):
            keypoint_images(path)
        with pytest.raises(InputError, match=r'cut\.json is cut short'):
            image_names(path)


def test_takes_little_memory_and_no_heavy_module(tmp_path):
    template = person(0, 0, segmentation=[[12.34, 56.78] * 60])
    images, entries = [], []
    for n in range(12_000):
        images.append(image(n))
        entries.append({**copy.copy(template), 'id': n, 'image_id': n})
    path = write(tmp_path, images, entries)
    assert path.stat().st_size > 14e6
    code = (
        'import sys, tracemalloc\n'
        'from sapiens_plugin.core.coco.annotations import keypoint_images\n'
        'assert not {"numpy", "torch", "cv2"} & set(sys.modules)\n'
        'tracemalloc.start()\n'
        'print(len(keypoint_images(sys.argv[1])), tracemalloc.get_traced_memory()[1])'
    )
    done = subprocess.run(
        [sys.executable, '-c', code, str(path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    count, peak = map(int, done.stdout.split())
    assert count == 12_000
    assert peak < 10e6
