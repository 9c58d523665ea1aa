import re
from dataclasses import replace

import pytest
from http_server import CocoServer
from small_coco import make_small_coco

from sapiens_plugin.core.coco.layout import ANNOTATIONS, DETECTIONS, TRAIN, VAL
from sapiens_plugin.errors import InputError
from sapiens_plugin.workbench.download.coco import Order, bring
from sapiens_plugin.workbench.download.coco_verify import verify

NUM_TRAIN, NUM_VAL = 24, 8
PARTS = (
    replace(ANNOTATIONS, size=None),
    replace(VAL, images=NUM_VAL, size=None),
    replace(TRAIN, images=NUM_TRAIN, size=None),
)


@pytest.fixture(scope='module')
def coco(tmp_path_factory):
    root = tmp_path_factory.mktemp('coco')
    return make_small_coco(root, train=NUM_TRAIN, val=NUM_VAL)


@pytest.fixture(autouse=True)
def no_sync(monkeypatch):
    monkeypatch.delattr('os.sync', raising=False)


def brought(coco, root, **changes):
    with CocoServer(coco.root) as server:
        what = {'parts': PARTS, 'detections': False, **changes}
        bring(Order(root=root, server=server.url, **what), say=lambda line: None)
    return root


def by_hand(coco, root):
    """COCO as a user unpacks it."""
    for split, images in coco.images.items():
        folder = root / 'images' / split
        folder.mkdir(parents=True)
        for name, data in images.items():
            (folder / name).write_bytes(data)
    (root / 'annotations').mkdir()
    for name, data in coco.annotations.items():
        (root / name).write_bytes(data)
    return root


def faults(root, **kwargs):
    """What is wrong, by part: the reason by file name."""
    folders = {part.name: part.directory for part in PARTS}
    return {
        verdict.name: {
            fault.name.removeprefix(f'{folders[verdict.name]}/'): fault.reason
            for fault in verdict.faults
        }
        for verdict in verify(root, parts=PARTS, detections=False, **kwargs)
        if verdict.faults
    }


@pytest.mark.parametrize('keypoints_only', [False, True])
def test_what_was_brought_is_whole(coco, tmp_path, keypoints_only):
    root = brought(coco, tmp_path, keypoints_only=keypoints_only)
    verdicts = verify(root, parts=PARTS, detections=False)
    assert all(verdict.is_whole and verdict.compared for verdict in verdicts)
    train = coco.with_keypoints['train2017'] if keypoints_only else range(NUM_TRAIN)
    files = (2 if keypoints_only else 6, NUM_VAL, len(train))
    assert tuple(verdict.expected for verdict in verdicts) == files


def test_any_other_byte_is_found_in_what_was_brought(coco, tmp_path):
    root = brought(coco, tmp_path)
    images = root / 'images/train2017'
    first, second, third = sorted(path.name for path in images.iterdir())[:3]
    (images / first).unlink()
    (images / second).write_bytes(b'')
    data = bytearray((images / third).read_bytes())
    data[len(data) // 2] ^= 1
    (images / third).write_bytes(data)
    (root / 'annotations/captions_val2017.json').unlink()
    found = faults(root)
    assert found.keys() == {'annotations', 'train2017'}
    assert found['annotations'] == {'captions_val2017.json': 'is missing'}
    assert found['train2017'].keys() == {first, second, third}
    assert found['train2017'][first] == 'is missing'
    assert found['train2017'][second] == 'is empty'
    assert 'CRC-32' in found['train2017'][third]


def test_what_a_user_unpacked_is_whole(coco, tmp_path):
    verdicts = verify(by_hand(coco, tmp_path), parts=PARTS, detections=False)
    assert all(verdict.is_whole and not verdict.compared for verdict in verdicts)
    assert [verdict.expected for verdict in verdicts] == [2, NUM_VAL, NUM_TRAIN]


def test_images_that_do_not_decode_are_found(coco, tmp_path):
    root = by_hand(coco, tmp_path)
    images = root / 'images/val2017'
    first, second = sorted(path.name for path in images.iterdir())[:2]
    (images / first).write_bytes((images / first).read_bytes()[:-50])
    (images / second).unlink()
    found = faults(root)
    assert found.keys() == {'val2017'}
    assert found['val2017'].keys() == {first, second}
    assert 'does not decode' in found['val2017'][first]


def test_a_keypoint_job_needs_only_its_images(coco, tmp_path):
    root = by_hand(coco, tmp_path)
    for name in coco.images['train2017'].keys() - coco.with_keypoints['train2017']:
        (root / 'images/train2017' / name).unlink()
    assert len(faults(root)['train2017']) == NUM_TRAIN // 2
    assert faults(root, keypoints_only=True) == {}
    one = min(coco.with_keypoints['train2017'])
    (root / 'images/train2017' / one).unlink()
    assert faults(root, keypoints_only=True) == {'train2017': {one: 'is missing'}}


def test_an_empty_folder(tmp_path):
    verdicts = verify(tmp_path, parts=PARTS, detections=False)
    assert [verdict.expected for verdict in verdicts] == [2, NUM_VAL, NUM_TRAIN]
    assert [fault.name for verdict in verdicts for fault in verdict.faults] == [
        'annotations/person_keypoints_train2017.json',
        'annotations/person_keypoints_val2017.json',
        'images/val2017',
        'images/train2017',
    ]


def test_annotations_that_are_cut_short(coco, tmp_path):
    root = by_hand(coco, tmp_path)
    path = root / 'annotations/person_keypoints_val2017.json'
    path.write_bytes(path.read_bytes()[:-20])
    found = faults(root)
    assert 'is of no use' in found['annotations'][path.name]


def test_annotations_of_other_images(coco, tmp_path):
    root = brought(coco, tmp_path)
    path = root / 'annotations/person_keypoints_val2017.json'
    name = next(iter(coco.images['val2017'])).removesuffix('.jpg').encode()
    path.write_bytes(path.read_bytes().replace(name, b'1' * 12))
    found = faults(root)
    assert found['val2017'] == {
        '1' * 12 + '.jpg': 'is missing',
        f'annotations/{path.name}': 'names 9 images, not the 8 of COCO 2017',
    }


def test_images_one_folder_too_high(coco, tmp_path):
    root = by_hand(coco, tmp_path)
    (root / 'images/val2017').rename(root / 'val2017')
    assert faults(root) == {
        'val2017': {
            'images/val2017': 'is missing, but there is val2017: move it into images'
        }
    }


def test_a_root_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match='is not a folder'):
        verify(tmp_path / 'nowhere')


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        (None, 'is missing'),
        (b'', 'is of no use: The file .* is not JSON'),
        (b'[{"image_id": 1}', 'is of no use: The file .* is cut short after 16 bytes'),
        (b'[]', None),
    ],
)
def test_person_detections(coco, tmp_path, content, reason):
    path = tmp_path / DETECTIONS
    path.parent.mkdir()
    if content is not None:
        path.write_bytes(content)
    *_, verdict = verify(tmp_path, parts=[])
    assert len(verdict.faults) == (reason is not None)
    for fault in verdict.faults:
        assert fault.name == DETECTIONS and re.match(reason, fault.reason)


def test_an_unfinished_download_is_not_whole(coco, tmp_path):
    root = brought(coco, tmp_path)
    index = root / 'archives' / 'val2017.index'
    index.rename(index.with_name('val2017.index.part'))
    verdict = verify(root, parts=PARTS, detections=False)[1]
    assert verdict.unfinished and not verdict.faults and not verdict.is_whole


def test_a_large_annotation_file_is_not_needed_for_what_is_known(coco, tmp_path):
    root = brought(coco, tmp_path)
    (root / 'annotations/person_keypoints_val2017.json').unlink()
    found = faults(root)
    assert list(found['annotations']) == ['person_keypoints_val2017.json']
    assert list(found['val2017']) == ['images/val2017']
