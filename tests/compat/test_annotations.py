"""What is said of annotation files and detections that are not right."""

import copy
import json
import math
import os
import subprocess
import sys

import pytest
from mmengine.registry import init_default_scope
from mmpose.datasets import CocoDataset
from mmpose.evaluation.metrics import CocoMetric

import sapiens_plugin.registry  # noqa: F401  (repairs how files are read)
from sapiens_plugin.errors import InputError


@pytest.fixture(autouse=True)
def mmpose_scope():
    init_default_scope('mmpose')


@pytest.fixture(scope='module')
def content(demo):
    return json.loads(demo.annotations('train').read_text('utf-8'))


@pytest.fixture
def build(tmp_path):
    """Build a data set from a content; the metric learns of it when it is tested on."""

    def build(content, *, test_mode=False, detections=None, **options):
        path = tmp_path / 'labels.json'
        path.write_text(
            content if isinstance(content, str) else json.dumps(content),
            encoding='utf-8',
        )
        if detections is not None:
            options['bbox_file'] = str(tmp_path / 'boxes.json')
            (tmp_path / 'boxes.json').write_text(json.dumps(detections))
        dataset = CocoDataset(
            ann_file=str(path), data_prefix=dict(img=''), test_mode=test_mode, **options
        )
        if test_mode:
            CocoMetric(str(path)).dataset_meta = dataset.metainfo
        return dataset

    return build


def changed(content, change):
    content = copy.deepcopy(content)
    change(content)
    return content


def test_good_files_are_read_and_persons_come_with_the_size(content, build):
    for test_mode in (False, True):
        dataset = build(content, test_mode=test_mode)
        assert len(dataset) >= 24
        sizes = {(image['height'], image['width']) for image in content['images']}
        assert {dataset.get_data_info(i)['img_shape'] for i in range(24)} <= sizes


def entry(part, **changes):
    """Change the second entry of a list; an ellipsis takes a field away."""

    def change(content):
        for key, value in changes.items():
            if value is ...:
                del content[part][1][key]
            else:
                content[part][1][key] = value

    return change


def of_person(field, value, place=0):
    def change(content):
        content['annotations'][1][field][place] = value

    return change


NAN = math.nan
STOPPERS = {
    'no images': (lambda c: c.pop('images'), 'no list "images"'),
    'images an object': (lambda c: c.update(images={}), 'no list "images"'),
    'no annotations': (lambda c: c.pop('annotations'), 'no list "annotations"'),
    'annotations of texts': (
        lambda c: c.update(annotations=['a']),
        r'labels.json: annotations\[0\] is no object',
    ),
    'no categories': (lambda c: c.pop('categories'), 'no list "categories"'),
    'category id': (
        lambda c: c['categories'][0].update(id=[]),
        r'category entry \(categories\[0\]: "id" has 0 numbers\)',
    ),
    'file name': (
        entry('images', file_name=...),
        r'image entry \(images\[1\], id \d+: "file_name" is missing\)',
    ),
    'width': (entry('images', width='640'), r'images\[1\], id \d+: "width" is "640"'),
    'height': (entry('images', height=0), r'images\[1\], id \d+: "height" is 0\)'),
    'image id': (entry('images', id='x'), r'image entry \(images\[1\]: "id" is "x"\)'),
    'same image': (
        lambda c: c['images'].append(c['images'][3]),
        r'image id twice \(images\[\d+\], id \d+\)',
    ),
    'no id': (
        entry('annotations', id=...),
        r'annotation id \(annotations\[1\]: "id" is mis',
    ),
    'id a text': (
        entry('annotations', id='8'),
        r'annotation id \(annotations\[1\]: "id" is "8"',
    ),
    'same id': (
        lambda c: c['annotations'].append(c['annotations'][3]),
        r'annotation id twice \(annotations\[\d+\], id \d+\)',
    ),
    'no image id': (
        entry('annotations', image_id=...),
        r'unknown image \(annotations\[1\], id \d+: "image_id" is missing\)',
    ),
    'image id an object': (
        entry('annotations', image_id={}),
        'unknown image .*"image_id" is an object',
    ),
    'no category id': (
        entry('annotations', category_id=...),
        'unknown category .*"category_id" is missing',
    ),
    'short box': (
        entry('annotations', bbox=[1, 2, 3]),
        r'box form \(annotation \d+ of image \d+: "bbox" has 3 numbers\)',
    ),
    'box of texts': (of_person('bbox', '1'), r'box form .*"bbox"\[0\] is "1"'),
    'box NaN': (of_person('bbox', NAN, 2), r'not finite .*"bbox"\[2\] is NaN'),
    'huge box': (of_person('bbox', 10**400, 2), r'not finite .*"bbox"\[2\] is 10+\.'),
    'keypoints null': (
        entry('annotations', keypoints=None),
        'keypoints form .*"keypoints" is null',
    ),
    'keypoint null': (
        of_person('keypoints', None),
        r'keypoints form .*"keypoints"\[0\] is null',
    ),
    'keypoints in lists': (
        entry('annotations', keypoints=[[9, 9, 2]] * 17),
        r'keypoints form .*"keypoints"\[0\] is a list',
    ),
    'keypoint infinite': (
        of_person('keypoints', -math.inf, 4),
        r'not finite .*"keypoints"\[4\] is -Infinity',
    ),
    '16 keypoints': (
        entry('annotations', keypoints=[9, 9, 2] * 16),
        'number of key.*"keypoints" has 48 numbers, not the 51 of 17 keypoints',
    ),
    'flag': (
        of_person('keypoints', -1, 2),
        r'negative flag \(annotation \d+ of image \d+: "keypoints"\[2\] is -1\)',
    ),
    'area a text': (entry('annotations', area='big'), 'no area .*"area" is "big"'),
}


@pytest.mark.parametrize('case', STOPPERS)
def test_what_would_stop_a_job_stops_it_first(content, build, case):
    change, message = STOPPERS[case]
    with pytest.raises(InputError, match=message) as error:
        build(changed(content, change))
    assert 'labels.json' in str(error.value)


EVALUATED = {
    'no keypoints': (entry('annotations', keypoints=...), '"keypoints" is missing'),
    'no box': (entry('annotations', bbox=...), 'no box .*"bbox" is missing'),
    'no area': (
        entry('annotations', area=...),
        r'no area \(annotation \d+ of image \d+: "area" is missing\)',
    ),
    'area NaN': (entry('annotations', area=NAN), 'not finite .*"area" is NaN'),
    'all of no category': (
        lambda c: c['categories'][0].update(id=7),
        r'unknown category \(annotation \d+ of .*"category_id" is 1, and no other',
    ),
    'crowd a text': (entry('annotations', iscrowd='no'), 'crowd .*"iscrowd" is "no"'),
}


@pytest.mark.parametrize('case', EVALUATED)
def test_what_would_stop_an_evaluation_stops_the_job_first(content, build, case):
    change, message = EVALUATED[case]
    content = changed(content, change)
    assert len(build(content)) > 20  # training does without
    with pytest.raises(InputError, match=message):
        build(content, test_mode=True)


def test_a_file_without_areas_can_be_evaluated_without_them(content, build, tmp_path):
    content = changed(content, entry('annotations', area=...))
    metainfo = build(content).metainfo
    path = str(tmp_path / 'labels.json')
    CocoMetric(path, use_area=False).dataset_meta = metainfo
    with pytest.raises(InputError, match='no area'):
        CocoMetric(path).dataset_meta = metainfo


@pytest.mark.parametrize(
    'text', ['', '{', 'null', '[]', '{"images": 9' + '9' * 5000, '[' * 100_000]
)
def test_what_is_no_annotation_file_is_told(build, text):
    with pytest.raises(InputError, match=r'labels\.json'):
        build(text)


def test_nesting_that_no_program_follows_is_told(content, build):
    deep = json.loads('[' * 900 + ']' * 900)
    with pytest.raises(InputError, match='RecursionError'):
        build(changed(content, entry('annotations', segmentation=deep)))


def test_a_byte_order_mark_is_told(content, build):
    with pytest.raises(InputError, match='UTF-8 without a byte order mark'):
        build('\ufeff' + json.dumps(content))


def test_names_in_any_script_are_read(content, build):
    text = json.dumps(changed(content, entry('images', file_name='人.jpg')))
    assert '\\u4eba' in text
    dataset = build(text.replace('\\u4eba', '人'))
    assert any('人.jpg' in dataset.get_data_info(i)['img_path'] for i in range(9))


def test_nobody_to_train_on_is_told(content, build):
    def make_crowds(content):
        for person in content['annotations']:
            person['iscrowd'] = 1

    with pytest.raises(InputError, match=r'no person to train or test on.*check_data'):
        build(changed(content, make_crowds))


def detection(content, **changes):
    box = {'image_id': content['images'][0]['id'], 'category_id': 1}
    box = {**box, 'bbox': [10, 10, 50, 80], 'score': 0.9, **changes}
    return {key: value for key, value in box.items() if value is not ...}


def test_detections_are_read(content, build):
    boxes = [detection(content), detection(content, category_id=2)]
    assert len(build(content, test_mode=True, detections=boxes)) == 1


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(image_id=...), r'Entry \[1\] of .* \("image_id" is missing\)'),
        (dict(image_id='3'), r'Entry \[1\] .*"image_id" is "3"'),
        (dict(category_id=...), r'Entry \[1\] .*"category_id" is missing'),
        (dict(bbox=[1, 2, 3]), r'Entry \[1\] .*"bbox" has 3 numbers'),
        (dict(bbox=[1, 2, 3, None]), r'Entry \[1\] .*"bbox"\[3\] is null'),
        (dict(score=NAN), r'Entry \[1\] .*"score" is NaN'),
        (dict(score=10**400), r'Entry \[1\] .*"score" is 10+\.\.\.'),
        (dict(image_id=-7), r'1 of 2 boxes .* images that .* first on "image_id" -7'),
    ],
)
def test_bad_detections_are_told(content, build, changes, message):
    boxes = [detection(content), detection(content, **changes)]
    with pytest.raises(InputError, match=message) as error:
        build(content, test_mode=True, detections=boxes)
    assert 'boxes.json' in str(error.value)


def test_detections_without_persons_are_told(content, build):
    with pytest.raises(InputError, match='no boxes of persons'):
        build(content, test_mode=True, detections=[])
    for boxes in ({}, [7]):
        with pytest.raises(InputError, match=r'boxes\.json'):
            build(content, test_mode=True, detections=boxes)


class Gadget:
    def __reduce__(self):
        return pytest.fail, ('it was unpickled',)


def test_detections_in_a_pickle_are_not_opened(demo, tmp_path):
    import pickle

    path = tmp_path / 'boxes.pkl'
    path.write_bytes(pickle.dumps(Gadget()))
    with pytest.raises(InputError, match='a pickle would run code'):
        CocoDataset(
            ann_file=str(demo.annotations('val')), bbox_file=str(path), test_mode=True
        )


def test_labels_of_which_none_is_visible_are_not_evaluated(content, build):
    for entry in content['annotations']:
        entry['keypoints'][2::3] = [0] * 17
    build(content)
    with pytest.raises(InputError, match='all visibility flags are 0'):
        build(content, test_mode=True)
    content['annotations'][-1]['keypoints'][2] = 1
    build(content, test_mode=True)


@pytest.mark.skipif(sys.platform == 'win32', reason='sets a locale of Unix')
def test_the_metric_reads_utf8_whatever_the_system_writes(content, tmp_path):
    content['images'][0]['file_name'] = 'Á.jpg'
    path = tmp_path / 'labels.json'
    path.write_text(json.dumps(content, ensure_ascii=False), encoding='utf-8')
    code = (
        'import sys, locale, sapiens_plugin.registry\n'
        'from mmpose.evaluation.metrics import CocoMetric\n'
        "assert locale.getencoding() == 'ANSI_X3.4-1968', locale.getencoding()\n"
        'coco = CocoMetric(sys.argv[1]).coco\n'
        'print(ascii(next(iter(coco.imgs.values()))["file_name"]))\n'
    )
    answer = subprocess.run(
        [sys.executable, '-c', code, str(path)],
        env={
            **os.environ,
            'LC_ALL': 'C',
            'PYTHONUTF8': '0',
            'PYTHONCOERCECLOCALE': '0',
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert "'\\xc1.jpg'" in answer.stdout


def test_results_need_a_place_before_the_test(content, build, tmp_path):
    meta = build(content).metainfo
    file = tmp_path / 'a file'
    file.touch()
    metric = CocoMetric(outfile_prefix=str(file / 'below' / 'poses'))
    with pytest.raises(InputError, match=r'cannot be written: .*outfile_prefix'):
        metric.dataset_meta = meta
    CocoMetric(outfile_prefix=str(tmp_path / 'new' / 'poses')).dataset_meta = meta
    assert not (tmp_path / 'new').exists()  # nothing is left behind
