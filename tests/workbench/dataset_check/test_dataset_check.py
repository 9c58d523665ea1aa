import copy
import io
import json
import random

import cv2
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from sapiens_plugin.core.coco.keypoints import person_category
from sapiens_plugin.errors import InputError
from sapiens_plugin.workbench.dataset_check import kinds
from sapiens_plugin.workbench.dataset_check.check import check_dataset
from sapiens_plugin.workbench.dataset_check.kinds import Severity
from sapiens_plugin.workbench.dataset_check.report import print_report
from sapiens_plugin.workbench.dataset_check.samples import draw_samples

WIDTH, HEIGHT = 200, 160
NAN, INF = float('nan'), float('inf')


def keypoints(x=80.0, y=70.0, flag=2, *, labelled=17):
    """17 keypoints on a diagonal through the box, the last ones not labelled."""
    points = []
    for index in range(17):
        points += [x + index, y + index, flag] if index < labelled else [0, 0, 0]
    return points


def person(number=1, **changes):
    entry = {
        'id': number,
        'image_id': 1 + (number - 1) % 3,
        'category_id': 1,
        'bbox': [60, 50, 60, 80],
        'area': 2400.0,
        'iscrowd': 0,
        'num_keypoints': 17,
        'keypoints': keypoints(),
    }
    entry.update(changes)
    return {key: value for key, value in entry.items() if value is not Ellipsis}


def content():
    return {
        'images': [
            {
                'id': number,
                'file_name': f'{number}.jpg',
                'width': WIDTH,
                'height': HEIGHT,
            }
            for number in (1, 2, 3)
        ],
        'annotations': [person(number) for number in range(1, 7)],
        'categories': [person_category()],
    }


def write_image(path, width=WIDTH, height=HEIGHT, **options):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (height, width, 3), np.uint8)
    Image.fromarray(noise).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    images = tmp_path / 'images'
    images.mkdir()
    for number in (1, 2, 3):
        write_image(images / f'{number}.jpg')
    return images


def check(folder, data, **options):
    path = folder.parent / 'data.json'
    path.write_text(json.dumps(data), encoding='utf-8')
    return check_dataset(path, folder, **options)


def found(report):
    return {finding.kind: finding for finding in report.findings}


def test_nothing_is_wrong_with_a_good_file(folder):
    report = check(folder, content())
    assert report.findings == ()
    assert report.is_usable
    assert report.totals.images == report.totals.images_read == 3
    assert report.totals.persons == report.totals.annotations == 6
    assert report.totals.labelled_per_person == report.totals.visible_per_person == 17
    assert report.totals.box == (60, 80)
    assert report.totals.small_boxes == 0
    assert report.totals.images_per_second > 0


# Changes to the second of six persons, and what is found; a kind alone has to be an
# error or a warning as it says itself.
PERSONS = {
    'id missing': (dict(id=...), kinds.ANNOTATION_ID),
    'id a text': (dict(id='two'), kinds.ANNOTATION_ID),
    'id twice': (dict(id=1), kinds.ANNOTATION_ID_TWICE),
    'image missing': (dict(image_id=...), kinds.IMAGE_UNKNOWN),
    'image unknown': (dict(image_id=9), kinds.IMAGE_UNKNOWN),
    'image a text': (dict(image_id='1'), kinds.IMAGE_UNKNOWN),
    'image a list': (dict(image_id=[1]), kinds.IMAGE_UNKNOWN),
    'category missing': (dict(category_id=...), kinds.CATEGORY_UNKNOWN),
    'category unknown': (dict(category_id=2), kinds.CATEGORY_UNKNOWN),
    'category a list': (dict(category_id=[1]), kinds.CATEGORY_UNKNOWN),
    'no keypoints': (dict(keypoints=...), kinds.KEYPOINTS_MISSING),
    'keypoints empty': (dict(keypoints=[]), kinds.KEYPOINTS_FORM),
    'keypoints in pairs': (dict(keypoints=[1, 2] * 17), kinds.KEYPOINTS_FORM),
    'keypoints nested': (dict(keypoints=[[1, 2, 2]] * 17), kinds.KEYPOINTS_FORM),
    'keypoints null': (dict(keypoints=[None] * 51), kinds.KEYPOINTS_FORM),
    'keypoints texts': (dict(keypoints=['1'] * 51), kinds.KEYPOINTS_FORM),
    'crowd in pairs': (
        dict(keypoints=[1, 2] * 17, iscrowd=1),
        kinds.KEYPOINTS_FORM,
    ),
    'too few': (dict(keypoints=keypoints()[:48]), kinds.KEYPOINTS_NUMBER),
    'too many': (dict(keypoints=[*keypoints(), 1, 1, 2]), kinds.KEYPOINTS_NUMBER),
    'NaN': (dict(keypoints=[NAN, *keypoints()[1:]]), kinds.NOT_FINITE),
    'infinite box': (dict(bbox=[60, 50, INF, 80]), kinds.NOT_FINITE),
    'huge box': (dict(bbox=[60, 50, 10**400, 80]), kinds.NOT_FINITE),
    'NaN twice': (dict(bbox=[NAN] * 4, keypoints=[NAN] * 51), kinds.NOT_FINITE),
    'NaN area': (dict(area=NAN), kinds.NOT_FINITE),
    'flag -1': (
        dict(keypoints=[80, 70, -1, *keypoints()[3:]], num_keypoints=16),
        kinds.FLAG_NEGATIVE,
    ),
    'flag 3': (dict(keypoints=[80, 70, 3, *keypoints()[3:]]), kinds.FLAG_UNKNOWN),
    'flag 0.9': (dict(keypoints=[80, 70, 0.9, *keypoints()[3:]]), kinds.FLAG_UNKNOWN),
    'counted as 0': (dict(num_keypoints=0), kinds.NUM_KEYPOINTS_ZERO),
    'counted wrongly': (dict(num_keypoints=16), kinds.NUM_KEYPOINTS),
    'all invisible': (
        dict(keypoints=keypoints(flag=0)),
        kinds.ALL_INVISIBLE,
    ),
    'all invisible, uncounted': (
        dict(keypoints=keypoints(flag=0), num_keypoints=...),
        kinds.ALL_INVISIBLE,
    ),
    'normalised': (
        dict(bbox=[0.1, 0.2, 0.3, 0.4], keypoints=[0.2, 0.3, 2] * 17, area=0.05),
        kinds.NORMALISED,
    ),
    'normalised box': (dict(bbox=[0.1, 0.2, 0.3, 0.4]), kinds.NORMALISED),
    'normalised keypoints': (dict(keypoints=[0.2, 0.3, 2] * 17), kinds.NORMALISED),
    'keypoint at the origin': (
        dict(bbox=[0, 0, 120, 130], keypoints=[0, 0, 2, *keypoints()[3:]], area=8000),
        kinds.AT_ORIGIN,
    ),
    'all keypoints at the origin': (
        dict(bbox=[0, 0, 120, 130], keypoints=[0, 0, 2] * 17, area=8000),
        kinds.ALL_AT_ORIGIN,
    ),
    'all outside the image': (
        dict(keypoints=keypoints(x=210)),
        kinds.ALL_OUTSIDE_IMAGE,
    ),
    'one outside the image': (
        dict(keypoints=[80, -5, 2, *keypoints()[3:]]),
        kinds.OUTSIDE_IMAGE,
    ),
    'all far from the box': (
        dict(bbox=[10, 10, 20, 20], area=200, keypoints=keypoints(x=120)),
        kinds.ALL_OFF_BOX,
    ),
    'one far from the box': (
        dict(keypoints=[30, 70, 2, *keypoints()[3:]]),
        kinds.OFF_BOX,
    ),
    'no box': (dict(bbox=...), kinds.BOX_MISSING),
    'box of three': (dict(bbox=[1, 2, 3]), kinds.BOX_FORM),
    'box null': (dict(bbox=None), kinds.BOX_FORM),
    'box of no width': (dict(bbox=[60, 50, 0, 80]), kinds.BOX_EMPTY),
    'box of negative height': (dict(bbox=[60, 130, 60, -80]), kinds.BOX_EMPTY),
    'box outside': (
        dict(bbox=[199, 50, 60, 80], keypoints=keypoints(x=183)),
        kinds.BOX_OUTSIDE,
    ),
    'box partly outside': (dict(bbox=[60, 50, 60, 120]), kinds.BOX_BEYOND),
    'no area': (dict(area=...), kinds.AREA_MISSING),
    'area a text': (dict(area='2400'), kinds.AREA_MISSING),
    'area 0': (dict(area=0), kinds.AREA_ZERO),
    'area negative': (dict(area=-5), kinds.AREA_ZERO),
    'area small': (dict(area=40), kinds.AREA_ODD),
    'area large': (dict(area=9000), kinds.AREA_ODD),
    'crowd a text': (dict(iscrowd='0'), kinds.CROWD_FLAG),
    'crowd with keypoints': (dict(iscrowd=1), kinds.CROWD_LABELLED),
}


@pytest.mark.parametrize('case', PERSONS)
def test_each_defect_of_a_person_is_found_alone(folder, case):
    changes, kind = PERSONS[case]
    data = content()
    data['annotations'][1] = person(2, **changes)
    report = check(folder, data)
    assert set(found(report)) - {kinds.CROWD_LABELLED} == {kind} - {
        kinds.CROWD_LABELLED
    }
    finding = found(report)[kind]
    assert finding.count == 1
    expected = data['annotations'][1].get('id', 'annotations[1]')
    assert finding.first[0].split(' ')[0] == str(expected)
    assert report.is_usable == (kind.severity is not Severity.ERROR)


@pytest.mark.parametrize(
    'changes',
    [
        dict(iscrowd=...),
        dict(num_keypoints=...),
        dict(num_keypoints=0, keypoints=[0] * 51),
        dict(num_keypoints=0, keypoints=[0] * 51, area=0, bbox=[0, 0, 0, 0]),
        dict(num_keypoints=0, keypoints=keypoints(flag=0)),
        dict(num_keypoints=3, keypoints=keypoints(labelled=3)),
        dict(iscrowd=1, num_keypoints=0, keypoints=[0] * 51, bbox=[0, 0, 400, 400]),
        dict(keypoints=keypoints(flag=1)),
        dict(bbox=[60.0, 50.0, 141.0, 111.5]),
        dict(keypoints=keypoints(x=59.5, y=49)),
        dict(bbox=[0, 0, 120, 130], area=8000),
        dict(image_id=2.0),
        dict(segmentation=[[1, 2, 3]], note='of the user'),
    ],
)
def test_what_is_all_right_is_not_reported(folder, changes):
    data = content()
    data['annotations'][1] = person(2, **changes)
    assert check(folder, data).findings == ()


def test_the_verdicts_on_training_are_those_of_stock_mmpose(folder, stock_coco):
    """What is said to stop it does, and what is said to be left out is."""
    from mmpose.datasets import CocoDataset

    stopped, left_out, kept = set(), set(), set()
    for changes, kind in PERSONS.values():
        data = content()
        data['annotations'] = [person(1), person(2, **changes)]
        path = folder.parent / 'one.json'
        path.write_text(json.dumps(data), encoding='utf-8')
        try:
            dataset = CocoDataset(
                ann_file=str(path), data_prefix=dict(img=''), serialize_data=False
            )
        except (KeyError, ValueError, TypeError, OverflowError):
            stopped.add(kind)
        else:
            (kept if len(dataset) == 2 else left_out).add(kind)
    says_stop = {
        kinds.ANNOTATION_ID,
        kinds.IMAGE_UNKNOWN,
        kinds.CATEGORY_UNKNOWN,
        kinds.KEYPOINTS_FORM,
        kinds.BOX_FORM,
    }
    says_left_out = {
        kinds.IMAGE_UNKNOWN,
        kinds.KEYPOINTS_MISSING,
        kinds.NUM_KEYPOINTS_ZERO,
        kinds.BOX_MISSING,
        kinds.BOX_EMPTY,
        kinds.BOX_OUTSIDE,
        kinds.ALL_AT_ORIGIN,
        kinds.CROWD_FLAG,
        kinds.CROWD_LABELLED,
    }
    assert says_stop - stopped == set()
    assert says_left_out - left_out == set()
    assert not left_out - says_left_out
    assert {kinds.ALL_INVISIBLE, kinds.AREA_ZERO, kinds.NORMALISED} <= kept


def weights(folder, changes):
    """What the loss multiplies the keypoints of one person by, (1, 17)."""
    from mmengine.registry import init_default_scope
    from mmpose.datasets import CocoDataset

    init_default_scope('mmpose')
    path = folder.parent / 'one.json'
    data = {**content(), 'annotations': [person(1, **changes)]}
    path.write_text(json.dumps(data), encoding='utf-8')
    codec = dict(
        type='UDPHeatmap', input_size=(192, 256), heatmap_size=(48, 64), sigma=2
    )
    pipeline = [
        dict(type='LoadImage'),
        dict(type='GetBBoxCenterScale'),
        dict(type='TopdownAffine', input_size=(192, 256), use_udp=True),
        dict(type='GenerateTarget', encoder=codec),
        dict(type='PackPoseInputs'),
    ]
    dataset = CocoDataset(
        ann_file=str(path), data_prefix=dict(img=str(folder)), pipeline=pipeline
    )
    return dataset[0]['data_samples'].gt_instance_labels.keypoint_weights.numpy()


def test_what_is_said_of_the_loss_is_so_in_stock_mmpose(folder, stock_coco):
    assert weights(folder, {}).tolist() == [[1.0] * 17]
    for case in (
        'all invisible',
        'all invisible, uncounted',
        'normalised keypoints',
        'all far from the box',
        'all outside the image',
    ):
        assert weights(folder, PERSONS[case][0]).tolist() == [[0.0] * 17]
    flag = {'keypoints': [80, 70, NAN, *keypoints()[3:]]}
    assert np.isnan(weights(folder, flag)[0, 0])
    assert weights(folder, PERSONS['NaN'][0])[0, 0] == 0
    assert weights(folder, PERSONS['flag -1'][0])[0, 0] == -1
    assert weights(folder, PERSONS['flag 3'][0])[0, 0] == 1
    assert weights(folder, PERSONS['flag 0.9'][0])[0, 0] == pytest.approx(0.9)
    # The model's output has another shape, where it comes so far.
    assert weights(folder, PERSONS['too few'][0]).shape == (1, 16)


def average_precision(folder, changes):
    """AP of predictions a pixel beside the truth, as ``CocoMetric`` evaluates them."""
    from sapiens_plugin.compat.coco_api import COCO, COCOeval

    path = folder.parent / 'truth.json'
    truth = {
        **content(),
        'annotations': [
            person(n, image_id=n, **(changes if n == 2 else {})) for n in (1, 2, 3)
        ],
    }
    path.write_text(json.dumps(truth), encoding='utf-8')
    predictions = [
        {
            'image_id': n,
            'category_id': 1,
            'keypoints': keypoints(x=80.5),
            'bbox': [60, 50, 60, 80],
            'score': 0.9,
        }
        for n in (1, 2, 3)
    ]
    (folder.parent / 'found.json').write_text(json.dumps(predictions))
    coco = COCO(str(path))
    evaluation = COCOeval(
        coco,
        coco.loadRes(str(folder.parent / 'found.json')),
        'keypoints',
        np.full(17, 0.05),
    )
    evaluation.params.useSegm = None
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[0]


def test_what_is_said_of_evaluation_is_so(folder):
    assert average_precision(folder, {}) == pytest.approx(1)
    assert average_precision(folder, PERSONS['area 0'][0]) < 0.7
    for case in ('no keypoints', 'no box', 'no area'):
        field = case.removeprefix('no ').replace('box', 'bbox')
        with pytest.raises(InputError, match=f"Annotation 2 .* has no '{field}'"):
            average_precision(folder, PERSONS[case][0])


def test_counts_and_names_the_first(folder):
    data = content()
    data['annotations'] = [
        person(number, area=0 if number % 2 else 2400.0) for number in range(1, 41)
    ]
    report = check(folder, data)
    (finding,) = report.findings
    assert finding.kind is kinds.AREA_ZERO
    assert finding.count == 20
    assert finding.first == ('1', '3', '5', '7', '9')


def corners(entry):
    x, y, width, height = entry['bbox']
    return {**entry, 'bbox': [x, y, x + width, y + height]}


def people(count=30):
    """Persons everywhere in the picture, their keypoints inside their boxes."""
    rng = random.Random(0)
    entries = []
    for number in range(1, count + 1):
        width, height = rng.uniform(20, 60), rng.uniform(30, 70)
        x, y = rng.uniform(0, WIDTH - width), rng.uniform(0, HEIGHT - height)
        points = []
        for _ in range(17):
            points += [x + rng.random() * width, y + rng.random() * height, 2]
        entries.append(
            person(
                number,
                bbox=[x, y, width, height],
                area=0.6 * width * height,
                keypoints=points,
            )
        )
    return entries


def test_boxes_of_two_corners_are_recognised(folder):
    data = content()
    data['annotations'] = people()
    assert check(folder, data).findings == ()
    data['annotations'] = [corners(entry) for entry in people()]
    report = check(folder, data)
    finding = found(report)[kinds.BOX_CORNERS]
    assert finding.count > 10
    assert finding.first[0] in {str(n) for n in range(1, 31)}
    assert kinds.BOX_BEYOND not in found(report)


def test_a_few_boxes_beyond_the_image_are_not_taken_for_corners(folder):
    data = content()
    entries = people()
    data['annotations'] = [corners(entry) for entry in entries[:4]] + entries[4:]
    assert kinds.BOX_CORNERS not in found(check(folder, data))
    # Large persons, their boxes too large by half: no corners either.
    for entry in entries:
        entry['bbox'] = [
            side * scale
            for side, scale in zip(entry['bbox'], (1, 1, 3, 3), strict=True)
        ]
        entry['area'] *= 9
    data['annotations'] = entries
    report = check(folder, data)
    assert kinds.BOX_CORNERS not in found(report)
    assert found(report)[kinds.BOX_BEYOND].count > 5


def test_keypoints_tell_large_boxes_from_corners(folder):
    data = content()
    for entry in data['annotations']:
        entry.update(bbox=[60, 50, 150, 120], keypoints=keypoints(x=170), area=9000)
    assert set(found(check(folder, data))) == {kinds.BOX_BEYOND}


def test_one_box_alone_does_not_make_them_corners(folder):
    data = content()
    data['annotations'] = [
        person(n, bbox=[50, 40, 90, 100], area=5000) for n in range(1, 20)
    ]
    data['annotations'].append(person(20, bbox=[70, 60, 140, 120], area=9000))
    report = check(folder, data)
    assert set(found(report)) == {kinds.BOX_BEYOND}
    assert found(report)[kinds.BOX_BEYOND].first == ('20',)


def one_image(**changes):
    data = content()
    entry = {**data['images'][1], **changes}
    data['images'][1] = {k: v for k, v in entry.items() if v is not Ellipsis}
    return data


@pytest.mark.parametrize(
    'changes',
    [
        dict(id=...),
        dict(id='2'),
        dict(file_name=...),
        dict(file_name=2),
        dict(width=...),
        dict(height=0),
        dict(width='200'),
        dict(width=True),
    ],
)
def test_bad_entries_of_images(folder, changes):
    report = check(folder, one_image(**changes))
    kind = found(report)[kinds.IMAGE_ENTRY]
    assert kind.first == ('images[1]' if changes.get('id') is ... else '2',)
    # Its persons have no image then.
    assert found(report)[kinds.IMAGE_UNKNOWN].count == 2
    assert not report.is_usable


@pytest.mark.parametrize(
    ('changes', 'kind', 'place'),
    [
        (dict(width=100, height=80), kinds.IMAGE_SIZE, '2 (2.jpg): 200 x 160, not 100'),
        (dict(file_name='4.jpg'), kinds.IMAGE_MISSING, '2 (4.jpg)'),
        (dict(file_name='a/2.jpg'), kinds.IMAGE_MISSING, '2 (a/2.jpg)'),
        (dict(file_name='2.JPG'), kinds.IMAGE_MISSING, '2 (2.JPG); there is 2.jpg'),
        (dict(file_name='\0/\ud800'), kinds.IMAGE_MISSING, r'2 (\x00/\ud800)'),
        (dict(file_name='x' * 5000 + '/1'), kinds.IMAGE_MISSING, '2 (xxx'),
        (dict(file_name=''), kinds.IMAGE_MISSING, '2 ()'),
        (dict(file_name='1.jpg'), kinds.IMAGE_NAME_TWICE, '2 (1.jpg)'),
        (dict(file_name='../images/2.jpg'), kinds.IMAGE_PATH, '2 (../images/2.jpg)'),
        (dict(file_name='a\\..\\2.jpg'), kinds.IMAGE_PATH, '2 ('),
    ],
)
def test_images_that_do_not_fit_their_entries(folder, changes, kind, place):
    data = one_image(**changes)
    if kind is kinds.IMAGE_SIZE:
        # Labels in the picture as it was, half the size.
        for entry in data['annotations']:
            entry['bbox'] = [30, 25, 30, 40]
            entry['keypoints'] = keypoints(x=35, y=30)
            entry['area'] = 700
    report = check(folder, data)
    assert found(report)[kind].first[0].startswith(place)
    assert found(report)[kind].count == 1


def test_an_image_id_twice(folder):
    data = one_image(id=1)
    report = check(folder, data)
    assert found(report)[kinds.IMAGE_ID_TWICE].first == ('1 (2.jpg)',)


def cut(path):
    path.write_bytes(path.read_bytes()[:-2000])


@pytest.mark.parametrize(
    ('break_it', 'decode', 'kind'),
    [
        (lambda path: path.unlink(), False, kinds.IMAGE_MISSING),
        (lambda path: path.write_bytes(b''), False, kinds.IMAGE_EMPTY),
        (lambda path: path.write_text('<html>'), False, kinds.IMAGE_UNREADABLE),
        (cut, True, kinds.IMAGE_UNREADABLE),
        (lambda path: write_image(path, 199), False, kinds.IMAGE_SIZE),
        (lambda path: write_image(path, HEIGHT, WIDTH), False, kinds.IMAGE_SIZE),
    ],
)
def test_broken_files(folder, break_it, decode, kind):
    break_it(folder / '2.jpg')
    report = check(folder, content(), decode=decode)
    assert [finding.kind for finding in report.findings] == [kind]
    assert report.findings[0].first[0].startswith('2 (2.jpg)')
    # Without a person to train on it is no more than a warning.
    data = content()
    data['annotations'] = [e for e in data['annotations'] if e['image_id'] != 2]
    report = check(folder, data, decode=decode)
    assert [finding.kind for finding in report.findings] == [kinds.IMAGE_UNREAD]
    assert report.is_usable


def test_a_cut_file_needs_decoding(folder):
    cut(folder / '2.jpg')
    assert check(folder, content()).findings == ()


@pytest.mark.parametrize('suffix', ['.png', '.webp', '.bmp', '.tif'])
def test_other_formats(folder, suffix):
    write_image(folder / f'2{suffix}')
    data = one_image(file_name=f'2{suffix}')
    assert check(folder, data, decode=True).findings == ()


def test_a_format_that_opencv_does_not_read(folder):
    write_image(folder / '2.ico')
    data = one_image(file_name='2.ico')
    assert cv2.imread(str(folder / '2.ico')) is None
    finding = found(check(folder, data))[kinds.IMAGE_UNREADABLE]
    assert finding.first == ('2 (2.ico): ICO',)


@pytest.mark.parametrize(
    ('orientation', 'stored', 'kind'),
    [
        (1, (WIDTH, HEIGHT), None),
        (6, (HEIGHT, WIDTH), None),
        (6, (WIDTH, HEIGHT), kinds.IMAGE_TURNED),
        (3, (WIDTH, HEIGHT), kinds.IMAGE_TURN_UNCLEAR),
        (99, (WIDTH, HEIGHT), None),
    ],
)
def test_turned_images(folder, orientation, stored, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    write_image(folder / '2.jpg', *stored, exif=exif)
    report = check(folder, content())
    assert [finding.kind for finding in report.findings] == ([kind] if kind else [])
    # The size that MMPose sees is the one that is compared.
    height, width = cv2.imread(str(folder / '2.jpg'), cv2.IMREAD_COLOR).shape[:2]
    assert ((width, height) == (WIDTH, HEIGHT)) == (kind is not kinds.IMAGE_TURNED)


def with_category(**changes):
    data = content()
    entry = {**data['categories'][0], **changes}
    data['categories'] = [{k: v for k, v in entry.items() if v is not Ellipsis}]
    return data


@pytest.mark.parametrize(
    ('changes', 'kind', 'place'),
    [
        (dict(name=...), kinds.CATEGORY_ENTRY, '1'),
        (dict(id=...), kinds.CATEGORY_ENTRY, 'categories[0]'),
        (dict(id='1'), kinds.CATEGORY_ENTRY, '1'),
        (dict(keypoints='nose'), kinds.CATEGORY_ENTRY, '1'),
        (dict(keypoints=[1] * 17), kinds.CATEGORY_ENTRY, '1'),
        (dict(keypoints=...), kinds.CATEGORY_NAMES, 'data.json'),
        (dict(skeleton=[[1, 2], [3, 18]]), kinds.SKELETON, 'person'),
        (dict(skeleton=[[1, 2, 3], 'x']), kinds.SKELETON, 'person'),
        (dict(skeleton=7), kinds.SKELETON, 'person'),
        (
            dict(keypoints=[f'point {n}' for n in range(17)]),
            kinds.KEYPOINT_NAMES,
            'point 0 for nose',
        ),
    ],
)
def test_categories(folder, changes, kind, place):
    report = check(folder, with_category(**changes))
    assert found(report)[kind].first[0] == place
    assert report.totals.keypoints == 17


@pytest.mark.parametrize('count', [4, 21])
def test_another_number_of_keypoints_is_a_note(folder, count):
    data = with_category(keypoints=[f'left {n}' for n in range(count)], skeleton=[])
    for entry in data['annotations']:
        entry['keypoints'] = [80, 70, 2] * count
        entry['num_keypoints'] = count
    report = check(folder, data)
    (finding,) = report.findings
    assert finding.kind is kinds.KEYPOINT_COUNT
    assert finding.first == (f'{count} keypoints',)
    assert report.is_usable
    assert report.totals.keypoints == count


def test_a_keypoint_that_nobody_has(folder):
    data = content()
    for entry in data['annotations']:
        entry['keypoints'][3 * 4 : 3 * 5] = [0, 0, 0]
        entry['num_keypoints'] = 16
    (finding,) = check(folder, data).findings
    assert finding.kind is kinds.KEYPOINT_NEVER
    assert finding.first == ('right_ear',)


@pytest.mark.parametrize(
    'annotations',
    [
        [],
        [person(1, num_keypoints=0, keypoints=[0] * 51)],
        [person(1, iscrowd=1, num_keypoints=0, keypoints=[0] * 51)],
        [person(n, keypoints=keypoints(flag=0)) for n in range(1, 5)],
        [person(n, bbox=[300, 300, 50, 50]) for n in range(1, 5)],
        [person(n, keypoints=keypoints(x=900)) for n in range(1, 5)],
    ],
)
def test_nothing_to_train_on(folder, annotations):
    report = check(folder, {**content(), 'annotations': annotations})
    assert kinds.NOTHING_TO_TRAIN in found(report)
    assert report.totals.persons == 0
    assert not report.is_usable


def test_totals(folder):
    data = content()
    data['annotations'] = [
        person(1, keypoints=keypoints(flag=1, labelled=5), num_keypoints=5),
        person(2, keypoints=keypoints(labelled=3), num_keypoints=3),
        person(3, num_keypoints=0, keypoints=[0] * 51),
        person(4, num_keypoints=0, keypoints=[0] * 51, iscrowd=1),
        person(5, bbox=[80, 70, 30, 30], area=500, image_id=1),
    ]
    report = check(folder, data)
    assert report.findings == ()
    totals = report.totals
    assert (totals.images, totals.images_read) == (3, 2)
    assert (totals.annotations, totals.persons) == (5, 3)
    assert (totals.unlabelled, totals.crowds) == (1, 1)
    assert totals.labelled_per_person == pytest.approx((5 + 3 + 17) / 3)
    assert totals.visible_per_person == pytest.approx((3 + 17) / 3)
    assert totals.labelled['nose'] == 1
    assert totals.labelled['right_ankle'] == pytest.approx(1 / 3)
    assert totals.box == (60, 80)
    assert totals.small_boxes == pytest.approx(1 / 3)
    # Images with nobody to see are not drawn.
    assert {sample.path.name for sample in report.samples} == {'1.jpg', '2.jpg'}


def test_the_order_of_the_file_does_not_matter(folder):
    data = content()
    data['annotations'][1] = person(2, area=0)
    report = check(folder, data)
    backwards = dict(reversed(data.items()))
    assert list(backwards) != list(data)
    again = check(folder, backwards)
    assert again.findings == report.findings
    assert again.samples == report.samples


@pytest.mark.parametrize('text', ['', '[]', '{"images": []}', '{"images": 3}'])
def test_a_file_of_another_form_is_refused(folder, text):
    path = folder.parent / 'data.json'
    path.write_text(text, encoding='utf-8')
    with pytest.raises(InputError, match=r'data\.json'):
        check_dataset(path, folder)


def test_a_folder_that_is_not_there(folder):
    with pytest.raises(InputError, match='is not a folder'):
        check(folder, content()) and check_dataset('x.json', folder / 'none')


def test_real_data_have_no_defect(coco_mini):
    report = check_dataset(coco_mini / 'test_coco.json', coco_mini, decode=True)
    assert report.findings == ()
    assert report.totals.persons == 12
    assert report.totals.unlabelled == 2


@pytest.mark.parametrize('split', ['train', 'val'])
def test_drawn_data_have_no_defect(large_demo, split):
    report = check_dataset(large_demo.annotations(split), large_demo.images(split))
    assert report.findings == ()
    assert report.totals.persons > 100


def test_samples_are_chosen_at_random_with_all_their_persons(large_demo):
    path, folder = large_demo.annotations('train'), large_demo.images('train')
    data = json.loads(path.read_text(encoding='utf-8'))
    chosen = {
        seed: check_dataset(path, folder, seed=seed, samples=4).samples
        for seed in (0, 1)
    }
    assert chosen[0] == check_dataset(path, folder, samples=4).samples
    files = {seed: {s.path.name for s in chosen[seed]} for seed in chosen}
    assert files[0] != files[1]
    assert len(files[0]) == len(files[1]) == 4
    ids = {image['file_name']: image['id'] for image in data['images']}
    for sample in chosen[0]:
        expected = {
            str(entry['id'])
            for entry in data['annotations']
            if entry['image_id'] == ids[sample.path.name]
            and any(flag > 0 for flag in entry['keypoints'][2::3])
        }
        assert {person.place for person in sample.persons} == expected
    assert check_dataset(path, folder, samples=0).samples == ()


def red(picture):
    """How many pixels have the colour of what is wrong."""
    blue, green, red = (picture[..., c].astype(int) for c in range(3))
    return int(((red > 200) & (blue < 110) & (green < 110)).sum())


def test_pictures(folder, tmp_path):
    for number in (1, 2, 3):
        white = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
        cv2.imwrite(str(folder / f'{number}.jpg'), white)
    data = content()
    report = check(folder, data, samples=2)
    out = tmp_path / 'out' / 'of it'
    for stale in ('sample_1.jpg', 'sample_9.jpg', 'mine.jpg'):
        out.mkdir(parents=True, exist_ok=True)
        (out / stale).write_bytes(b'stale')
    overview = draw_samples(report.samples, out)
    assert {path.name for path in out.iterdir()} == {
        'mine.jpg',
        'sample_1.jpg',
        'sample_2.jpg',
        'samples.jpg',
    }
    sheet = cv2.imread(str(overview))
    assert sheet.shape[1] == 2 * 560
    assert red(sheet) == 0
    data['annotations'] = [person(n, area=0, image_id=1) for n in (1, 2)]
    report = check(folder, data)
    draw_samples(report.samples, out)
    assert red(cv2.imread(str(out / 'sample_1.jpg'))) > 300
    assert not (out / 'sample_2.jpg').exists()


def test_the_skeleton_is_where_the_person_is(folder, tmp_path):
    """Blue on the right, orange on the left of the picture, nothing elsewhere."""
    grey = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    cv2.imwrite(str(folder / '1.jpg'), grey)
    data = with_category(
        keypoints=['left_a', 'left_b', 'right_a', 'right_b'],
        skeleton=[[1, 2], [3, 4]],
    )
    points = [50, 40, 2, 50, 120, 2, 150, 40, 2, 150, 120, 2]
    data['annotations'] = [
        person(bbox=[40, 30, 120, 100], keypoints=points, num_keypoints=4, area=5000)
    ]
    draw_samples(check(folder, data).samples, tmp_path)
    picture = cv2.imread(str(tmp_path / 'sample_1.jpg')).astype(int)
    orange = (picture[..., 2] - picture[..., 0] > 120).nonzero()
    blue = (picture[..., 0] - picture[..., 2] > 120).nonzero()
    scale = 0.9 * 3
    left = (picture.shape[1] - WIDTH * scale) / 2
    top = (picture.shape[0] - 26 - HEIGHT * scale) / 2
    for pixels, x in ((orange, 50), (blue, 150)):
        assert len(pixels[0]) > 500
        assert abs(np.median(pixels[1]) - (left + x * scale)) < 2
        assert abs(np.median(pixels[0]) - (top + 80 * scale)) < 6
        assert np.ptp(pixels[1]) < 20


def test_wild_numbers_can_be_drawn(folder, tmp_path):
    data = content()
    data['annotations'] = [
        person(1, bbox=[-1e25, 0, 1e29, 1e-9], keypoints=[1e29, -1e29, 2] * 17),
        person(2, bbox=[0, 0, 1e-30, 1e29], keypoints=[-1e-30, 1e20, 1] * 17),
    ]
    report = check(folder, data)
    assert draw_samples(report.samples, tmp_path / 'out')


def printed(report, **options):
    stream = io.StringIO()
    print_report(report, Console(file=stream, **options))
    return stream.getvalue()


def test_the_table_says_what_where_and_how_often(folder):
    data = content()
    data['annotations'][1]['area'] = 0
    data['annotations'][2]['num_keypoints'] = 3
    data['images'][2]['file_name'] = '[red]3.jpg'
    text = printed(check(folder, data))
    flat = ' '.join(text.split())
    for words in ('area of 0', 'num_keypoints', 'differs', '[red]3.jpg', 'OKS', '6'):
        assert words in flat
    assert '2 kinds of error, 1 kind of warning' in flat
    assert max(map(len, text.splitlines())) <= 110
    assert '\x1b' not in text
    good = printed(check(folder, content()))
    assert 'Nothing is wrong' in good
    assert '6 persons to learn from' in good
    data['annotations'] = [person(1)]
    assert '1: 1 person to learn from, 0 without keypoints, 0 crowds' in printed(
        check(folder, data)
    )


def test_the_table_is_plain_where_the_terminal_is(folder):
    data = content()
    data['annotations'][1]['area'] = 0
    data['images'][2]['file_name'] = 'é\ud800.jpg'
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding='ascii')
    print_report(check(folder, data), Console(file=stream))
    stream.flush()
    assert b'\\xe9\\ud800.jpg' in raw.getvalue()


def test_the_report_as_json(folder):
    data = content()
    data['annotations'][1]['area'] = 0
    saved = json.loads(json.dumps(check(folder, data).as_dict()))
    assert saved['usable'] is False
    (finding,) = saved['findings']
    assert finding['severity'] == 'error'
    assert finding['first'] == ['2']
    assert saved['totals']['persons'] == 6


def mangled(rng, value, depth=0):
    """The value with something in it replaced, taken out or doubled."""
    junk = [None, True, -1, 0, 10**400, 1e300, NAN, -INF, '', '\ud800', [], {}, [[]]]
    if rng.random() < 0.02 * depth:
        return copy.deepcopy(rng.choice(junk))
    if isinstance(value, dict):
        return {
            key: mangled(rng, entry, depth + 1)
            for key, entry in value.items()
            if rng.random() > 0.01
        }
    if isinstance(value, list):
        entries = [mangled(rng, entry, depth + 1) for entry in value]
        return entries * 2 if rng.random() < 0.02 else entries
    if isinstance(value, int | float) and rng.random() < 0.05:
        return value * rng.choice([-1, 0, 0.001, 1000, 1e25])
    return value


def test_garbage_is_refused_or_reported(folder):
    rng = random.Random(5)
    path = folder.parent / 'data.json'
    outcomes = {'refused': 0, 'reported': 0}
    for attempt in range(300):
        data = mangled(rng, content())
        raw = json.dumps(data).encode()
        if attempt % 5 == 4:
            at = rng.randrange(len(raw))
            raw = raw[:at] + bytes([rng.randrange(256)]) + raw[at + 1 :]
        if attempt % 50 == 0:
            raw = rng.randbytes(rng.randrange(500))
        path.write_bytes(raw)
        try:
            report = check_dataset(path, folder, samples=1)
        except InputError:
            outcomes['refused'] += 1
        else:
            outcomes['reported'] += 1
            json.dumps(report.as_dict())
            printed(report)
            if attempt % 10 == 0:
                draw_samples(report.samples, folder.parent / 'out')
    assert min(outcomes.values()) > 30


def test_garbage_images_are_reported(folder):
    rng = random.Random(1)
    whole = (folder / '2.jpg').read_bytes()
    png = io.BytesIO()
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(png, 'png')
    kinds_found = set()
    for attempt in range(100):
        raw = bytearray(rng.choice([whole, png.getvalue(), rng.randbytes(300)]))
        for _ in range(rng.randrange(20)):
            raw[rng.randrange(min(len(raw), 400))] = rng.randrange(256)
        (folder / '2.jpg').write_bytes(raw)
        report = check(folder, content(), decode=attempt % 2 == 0)
        kinds_found |= set(found(report))
    assert kinds.IMAGE_UNREADABLE in kinds_found
