"""Annotation files of other forms and categories, from the data set to the tools."""

import json
import shutil

import numpy as np
import pytest
from mmengine.registry import init_default_scope
from mmpose.registry import DATASETS, METRICS, MODELS
from mmpose.structures import PoseDataSample

import sapiens_plugin.registry  # noqa: F401  (repairs how files are read)
from sapiens_plugin.core.coco.keypoints import WHOLEBODY_FIELDS
from sapiens_plugin.errors import InputError
from sapiens_plugin.jobs.read_config import count_persons
from sapiens_plugin.workbench.dataset_check import kinds
from sapiens_plugin.workbench.dataset_check.check import check_dataset
from sapiens_plugin.workbench.job.reader import read_job
from sapiens_plugin.workbench.setup_check.setup_data import check_data
from sapiens_plugin.workbench.setup_check.setup_report import Commands

NAMES = {
    'train': 'person_keypoints_train.json',
    'val': 'person_keypoints_val.json',
}


@pytest.fixture(autouse=True)
def mmpose_scope():
    init_default_scope('mmpose')


@pytest.fixture
def root(demo, tmp_path):
    return shutil.copytree(demo.root, tmp_path / 'data')


@pytest.fixture
def change(root):
    """Change the content of both annotation files."""

    def apply(change):
        for name in NAMES.values():
            path = root / 'annotations' / name
            content = json.loads(path.read_text('utf-8'))
            change(content)
            path.write_text(json.dumps(content), encoding='utf-8')

    return apply


@pytest.fixture
def job(demo_config, root, tmp_path):
    """Settings of a job on that data; call it for the config's file."""
    for split in ('train', 'val', 'test'):
        demo_config[f'{split}_dataloader'].dataset.data_root = str(root)
    demo_config.train_cfg.update(max_epochs=1, val_interval=1)
    demo_config.param_scheduler = None

    def write():
        demo_config.dump(tmp_path / 'job.py')
        return tmp_path / 'job.py'

    write.cfg = demo_config
    return write


@pytest.fixture
def tool(launched):
    def run(name, *argv):
        code, out, err = launched(name, *argv)
        return code, out + err

    return run


@pytest.fixture
def untrained(job, tmp_path):
    """Save a checkpoint of the job's model; return its path."""

    def save():
        from mmengine.runner import save_checkpoint

        path = tmp_path / 'untrained.pth'
        state = MODELS.build(job.cfg.model).state_dict()
        save_checkpoint(dict(state_dict=state), str(path))
        return path

    return save


def average_precision(
    root, *, kind='CocoDataset', metric='CocoMetric', boxes=None, **options
):
    """What evaluation gives for predictions that are the truth."""
    path = root / 'annotations' / NAMES['val']
    common = dict(type=kind, ann_file=str(path), test_mode=True)
    dataset = DATASETS.build(dict(common, bbox_file=boxes and str(boxes)))
    truth = DATASETS.build(common)
    true = [truth.get_data_info(i) for i in range(len(truth))]
    metric = METRICS.build(dict(type=metric, **options))
    metric.dataset_meta = dataset.metainfo
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        known = {k: info[k] for k in ('id', 'img_id', 'category_id') if k in info}
        # The person whose box it is.
        points = next(
            one['keypoints']
            for one in true
            if one['img_id'] == info['img_id']
            and np.allclose(one['bbox'], info['bbox'], atol=1)
        )
        sample = PoseDataSample(metainfo=known).to_dict()
        sample['gt_instances'] = dict(bbox_scores=info['bbox_score'])
        sample['pred_instances'] = dict(
            keypoints=points, keypoint_scores=np.ones(points.shape[:2])
        )
        metric.process([], [sample])
    return next(iter(metric.evaluate(len(dataset)).values()))


# --- Categories of detections ---------------------------------------------------------


def categories(number):
    def change(content):
        content['categories'][0]['id'] = number
        for person in content['annotations']:
            person['category_id'] = number

    return change


def write_boxes(root, category=1, more=()):
    content = json.loads((root / 'annotations' / NAMES['val']).read_text('utf-8'))
    boxes = [
        dict(
            image_id=person['image_id'],
            category_id=category,
            bbox=person['bbox'],
            score=0.9,
        )
        for person in content['annotations']
        if not person.get('iscrowd') and person.get('num_keypoints')
    ]
    boxes += [dict(boxes[0], **one) for one in more]
    (root / 'boxes.json').write_text(json.dumps(boxes))
    return root / 'boxes.json'


@pytest.fixture
def warned(monkeypatch):
    """What is warned of."""
    from sapiens_plugin.compat import annotations, detections

    told = []
    for module in (annotations, detections):
        monkeypatch.setattr(module, 'print_log', lambda text, **_: told.append(text))
    return told


def test_own_classes_are_evaluated_as_what_they_are(root, change, warned):
    change(categories(2))
    assert average_precision(root) == 1
    assert not warned


@pytest.mark.parametrize('true, found', [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_detections_of_one_category_are_tested(true, found, root, change, warned):
    change(categories(true))
    assert average_precision(root, boxes=write_boxes(root, found)) == 1
    told = f'Tested are those of {found} as {true}'
    assert [told in text for text in warned] == [True] * (true != found)


def test_of_several_categories_that_of_the_truth_is_tested(root, change, warned):
    boxes = write_boxes(root, more=[dict(category_id=2), dict(category_id=90)])
    assert average_precision(root, boxes=boxes) == 1
    assert not warned
    change(categories(2))
    path = root / 'annotations' / NAMES['val']
    dataset = DATASETS.build(
        dict(type='CocoDataset', ann_file=str(path), bbox_file=str(boxes), test_mode=1)
    )
    assert len(dataset) == 1
    assert 'of category_id 1, 2, 90, and the persons' in warned[0]


def test_which_category_is_meant_is_asked_for(root, change, job, tool, untrained):
    change(categories(7))
    job.cfg.test_dataloader.dataset.bbox_file = str(
        write_boxes(root, more=[dict(category_id=2)])
    )
    code, said = tool('test', job(), untrained())
    assert code == 2
    assert 'are of category_id 1, 2, and the persons in' in said
    assert 'of category_id 7. Which are to be tested cannot be told' in said


def test_the_tool_tests_detections_of_another_category(
    root, change, job, tool, untrained
):
    change(categories(2))
    job.cfg.test_dataloader.dataset.bbox_file = str(write_boxes(root))
    code, said = tool('test', job(), untrained())
    assert code == 0
    assert 'Tested are those of 1 as 2' in said and 'coco/AP' in said


def test_boxes_of_other_images_are_counted(root, job, tool, untrained):
    boxes = write_boxes(root, more=[dict(image_id=-7), dict(image_id=-8)])
    job.cfg.test_dataloader.dataset.bbox_file = str(boxes)
    code, said = tool('test', job(), untrained())
    assert code == 2
    assert '2 of ' in said and 'the first on "image_id" -7' in said


# --- WholeBody ------------------------------------------------------------------------


def wholebody(content):
    """Give every person the other four fields, as COCO-WholeBody has them."""
    rng = np.random.default_rng(0)
    for person in content['annotations']:
        x, y, width, height = person['bbox']
        for field, count in list(WHOLEBODY_FIELDS.items())[1:]:
            points = rng.uniform(0.1, 0.9, (count, 3)) * [width, height, 0] + [x, y, 2]
            person[field] = points.round(2).ravel().tolist()
        for part in ('face', 'lefthand', 'righthand'):
            person[f'{part}_valid'] = True
            person[f'{part}_box'] = person['bbox']
        person.setdefault('iscrowd', 0)
        person.setdefault('segmentation', [])


@pytest.fixture
def wholebody_job(change, job):
    change(wholebody)
    for split in ('train', 'val', 'test'):
        job.cfg[f'{split}_dataloader'].dataset.type = 'CocoWholeBodyDataset'
    job.cfg.model.head.out_channels = 133
    job.cfg.default_hooks.checkpoint.save_best = 'coco-wholebody/AP'
    job.cfg.val_evaluator = job.cfg.test_evaluator = dict(type='CocoWholeBodyMetric')
    return job


def test_true_wholebody_poses_are_found_right(root, change):
    change(wholebody)
    names = dict(kind='CocoWholeBodyDataset', metric='CocoWholeBodyMetric')
    assert average_precision(root, **names) == 1
    assert average_precision(root, **names, boxes=write_boxes(root)) == 1


def test_a_wholebody_job_trains_and_tests(wholebody_job, root, tool, tmp_path):
    config = wholebody_job()
    code, said = tool('train', config)
    assert code == 0, said[-3000:]
    assert 'Planned' in said and 'coco-wholebody/AP' in said
    assert 'There is no plan' not in said
    code, said = tool('test', config, tmp_path / 'work' / 'epoch_1.pth')
    assert code == 0 and 'coco-wholebody/AP' in said


@pytest.mark.parametrize('field', WHOLEBODY_FIELDS)
@pytest.mark.parametrize('split', NAMES)
def test_a_wrong_length_in_any_field_is_told(field, split, wholebody_job, root, tool):
    path = root / 'annotations' / NAMES[split]
    content = json.loads(path.read_text('utf-8'))
    del content['annotations'][3][field][-3:]
    path.write_text(json.dumps(content), encoding='utf-8')
    code, said = tool('train', wholebody_job())
    assert code == 2
    count = WHOLEBODY_FIELDS[field]
    assert f'"{field}" has {3 * count - 3} numbers, not the {3 * count} of' in said
    assert (
        f'annotation {content["annotations"][3]["id"]} ' in said
        and NAMES[split] in said
    )


def test_wholebody_of_another_category_is_not_called_zero(root, change):
    change(wholebody)
    change(categories(2))
    with pytest.raises(InputError, match=r'"category_id" 1, which is what'):
        average_precision(
            root, kind='CocoWholeBodyDataset', metric='CocoWholeBodyMetric'
        )


def test_the_other_commands_take_wholebody_files(wholebody_job, root):
    annotations = root / 'annotations' / NAMES['train']
    images = root / 'images' / 'train'
    found = check_dataset(annotations, images).findings
    assert all(one.kind.severity is not kinds.Severity.ERROR for one in found)
    content = json.loads(annotations.read_text('utf-8'))
    del content['annotations'][3]['face_kpts'][0]
    annotations.write_text(json.dumps(content), encoding='utf-8')
    found = check_dataset(annotations, images).findings
    assert any(one.kind is kinds.KEYPOINTS_FORM for one in found)


# --- Files without annotations --------------------------------------------------------


@pytest.fixture
def unlabelled_job(root, job, tmp_path):
    """A test on pictures that nobody has labelled, with detected boxes."""
    dataset = job.cfg.test_dataloader.dataset
    dataset.bbox_file = str(write_boxes(root))
    path = root / 'annotations' / NAMES['val']
    images = json.loads(path.read_text('utf-8'))['images']
    coco = [dict(id=number, name=str(number)) for number in range(1, 91)]
    name = 'image_info_test-dev2017.json'
    content = dict(info={}, images=images, licenses=[], categories=coco)
    (path.parent / name).write_text(json.dumps(content), encoding='utf-8')
    dataset.ann_file = f'annotations/{name}'
    job.cfg.test_evaluator = dict(
        type='CocoMetric',
        format_only=True,
        outfile_prefix=str(tmp_path / 'out' / 'dev'),
    )
    return job


@pytest.mark.parametrize('form', ['test-dev', 'images alone', 'empty list'])
def test_pictures_without_labels_are_tested(
    form, unlabelled_job, root, tool, untrained, tmp_path
):
    path = root / unlabelled_job.cfg.test_dataloader.dataset.ann_file
    content = json.loads(path.read_text('utf-8'))
    if form == 'images alone':
        content = dict(images=content['images'])
    if form == 'empty list':
        content['annotations'] = []
    path.write_text(json.dumps(content), encoding='utf-8')
    code, said = tool('test', unlabelled_job(), untrained())
    assert code == 0, said[-3000:]
    results = json.loads((tmp_path / 'out' / 'dev.keypoints.json').read_text('utf-8'))
    boxes = json.loads((root / 'boxes.json').read_text('utf-8'))
    assert len(results) == len(boxes)
    assert {one['category_id'] for one in results} == {1}


def test_plan_and_setup_take_a_test_without_labels(unlabelled_job, tmp_path):
    config = unlabelled_job()
    assert count_persons(unlabelled_job.cfg).test == 8
    job = read_job(unlabelled_job.cfg.to_dict(), config)
    source = next(one for one in job.sources if one.split == 'test')
    checks = check_data(source, Commands(tmp_path, python='python'))
    assert {check.status for check in checks} == {'ok'}


@pytest.mark.parametrize('named', [False, True])
def test_an_evaluation_without_labels_is_refused(
    named, unlabelled_job, root, tool, untrained
):
    path = root / unlabelled_job.cfg.test_dataloader.dataset.ann_file
    metric = dict(type='CocoMetric', **(dict(ann_file=str(path)) if named else {}))
    unlabelled_job.cfg.test_evaluator = metric
    code, said = tool('test', unlabelled_job(), untrained())
    assert code == 2
    said = said.partition('tools/test.py:')[2]
    assert path.name in said and 'annotations' in said and 'format_only=True' in said


def test_true_boxes_without_labels_are_refused(unlabelled_job, tool, untrained):
    unlabelled_job.cfg.test_dataloader.dataset.bbox_file = ''
    code, said = tool('test', unlabelled_job(), untrained())
    assert code == 2
    assert 'has no list "annotations"' in said and 'dataset.bbox_file' in said


# --- Names of keypoints ---------------------------------------------------------------


def rename(change):
    def apply(content):
        names = content['categories'][0]['keypoints']
        content['categories'][0]['keypoints'] = change(names)

    return apply


def test_keypoints_in_another_order_are_warned_of(root, change, warned):
    change(rename(lambda names: [names[0], names[2], names[1], *names[3:]]))
    assert average_precision(root) == 1
    told = f"{NAMES['val']} calls keypoint 2 'right_eye', and the metainfo of its data"
    assert told in warned[0] and "set 'left_eye' (17 and 17 names)" in warned[0]


def test_fewer_names_are_warned_of(root, change, warned):
    change(rename(lambda names: names[:16]))
    average_precision(root)
    assert (
        "calls keypoint 17 None, and the metainfo of its data set 'right" in warned[0]
    )


@pytest.mark.parametrize(
    'same',
    [
        lambda names: names,
        lambda names: [name.replace('_', ' ').title() for name in names],
        lambda names: [],
    ],
)
def test_the_same_names_in_any_spelling_are_not_warned_of(same, root, change, warned):
    change(rename(same))
    average_precision(root)
    assert not warned


def test_a_wholebody_file_names_the_body_alone(root, change, warned):
    change(wholebody)
    names = dict(kind='CocoWholeBodyDataset', metric='CocoWholeBodyMetric')
    average_precision(root, **names)
    assert not warned


# --- Classes that read in their own way -----------------------------------------------

OWN_READERS = {
    'CocoWholeBodyFaceDataset': ('face_kpts', 68),
    'CocoWholeBodyHandDataset': ('lefthand_kpts', 21),
    'HumanArt21Dataset': ('keypoints_21', 21),
    'JhmdbDataset': ('keypoints', 15),
    'PanopticHand2DDataset': ('keypoints', 21),
    'FreiHandDataset': ('keypoints', 21),
    'AFLWDataset': ('keypoints', 19),
    'WFLWDataset': ('keypoints', 98),
    'Face300WDataset': ('keypoints', 68),
    'CocoWholeBodyDataset': ('face_kpts', 68),
    'AicDataset': ('keypoints', 14),
    'CrowdPoseDataset': ('keypoints', 14),
    'OCHumanDataset': ('keypoints', 17),
    'HalpeDataset': ('keypoints', 136),
}


@pytest.fixture
def build_own(root, change):
    """Build a data set of a class, its file with the fields that the class reads."""

    def build(kind, spoil=lambda person: None):
        field, count = OWN_READERS[kind]

        def fill(content):
            wholebody(content)
            for index, person in enumerate(content['annotations']):
                x, y, *_ = person['bbox']
                person.update(center=[x, y], scale=1.0, head_size=9, box_size=9)
                person.setdefault('num_keypoints', 1)
                if len(person.get(field, ())) != 3 * count:
                    person[field] = [x + 1, y + 1, 2] * count
                if index == 3:
                    spoil(person)

        change(fill)
        path = root / 'annotations' / NAMES['train']
        return DATASETS.build(
            dict(type=kind, ann_file=str(path), data_prefix=dict(img=''))
        )

    return build


@pytest.mark.parametrize('kind', OWN_READERS)
def test_persons_come_with_the_size_of_their_labels(kind, build_own, root):
    dataset = build_own(kind)
    content = json.loads((root / 'annotations' / NAMES['train']).read_text('utf-8'))
    sizes = {one['id']: (one['height'], one['width']) for one in content['images']}
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        assert info['img_shape'] == sizes[info['img_id']]


@pytest.mark.parametrize('short', [False, True])
@pytest.mark.parametrize('kind', OWN_READERS)
def test_what_any_class_reads_is_checked(kind, short, build_own):
    field, count = OWN_READERS[kind]

    def spoil(person):
        if short:
            del person[field][-3:]
        else:
            person[field][4] = float('nan')

    told = f'not the {3 * count} of {count}' if short else 'is NaN'
    with pytest.raises(InputError, match=rf'\(annotation \d+ of image \d+: .*{told}'):
        build_own(kind, spoil)


@pytest.mark.parametrize(
    'kind, options',
    [
        ('CrowdPoseDataset', dict(iou_type='keypoints_crowd', use_area=False)),
        ('AicDataset', dict(use_area=False)),
        ('OCHumanDataset', {}),
        ('HalpeDataset', {}),
    ],
)
def test_files_of_other_sets_are_evaluated_right(kind, options, root, change):
    count = OWN_READERS[kind][1]

    def fill(content):
        for image in content['images']:
            image['crowdIndex'] = 0.5
        for person in content['annotations']:
            person['keypoints'] = (person['keypoints'] * 8)[: 3 * count]
            if options:
                del person['area']

    change(fill)
    assert average_precision(root, kind=kind, **options) == 1


def test_mpii_is_planned_and_set_up(job, root, tmp_path):
    path = root / 'annotations' / 'mpii.json'
    person = dict(image='1.jpg', center=[9, 9], scale=1.0)
    person.update(joints=[[9, 9]] * 16, joints_vis=[1] * 16)
    path.write_text(json.dumps([person] * 5), encoding='utf-8')
    dataset = dict(type='MpiiDataset', ann_file=str(path), data_prefix=dict(img=''))
    assert len(DATASETS.build(dataset)) == 5
    job.cfg.train_dataloader.dataset.update(
        type='MpiiDataset', ann_file='annotations/mpii.json'
    )
    assert count_persons(job.cfg).train == 5
    setup = read_job(job.cfg.to_dict(), job())
    checks = check_data(setup.sources[0], Commands(tmp_path, python='python'))
    assert {check.status for check in checks} == {'ok'}
