"""What MMPose imports as xtcocotools."""

import json

import numpy as np
import pytest
from repairs import run_python

from sapiens_plugin.compat import coco_api
from sapiens_plugin.compat.coco_api import COCO, COCOeval
from sapiens_plugin.errors import InputError

SIGMAS = [0.05, 0.05]


def truth(**changes) -> dict:
    person = dict(
        id=7,
        image_id='a',
        category_id=1,
        keypoints=[10, 10, 2, 30, 30, 2],
        bbox=[0, 0, 40, 40],
        area=1600,
    )
    return {
        'images': [{'id': 'a'}, {'id': 'b'}],
        'annotations': [{**person, **changes}],
        'categories': [{'id': 1, 'name': 'person'}],
    }


def pose(**changes) -> dict:
    found = dict(image_id='a', category_id=1, keypoints=[10, 10, 1, 30, 30, 1], score=1)
    return found | changes


def evaluated(content, poses, kind='keypoints', **options) -> COCOeval:
    coco = COCO(ann_data=content)
    evaluation = COCOeval(coco, coco.loadRes(poses), kind, SIGMAS, **options)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


def test_ids_may_be_texts(capsys):
    evaluation = evaluated(truth(), [pose(), pose(image_id='b')])
    assert evaluation.stats[0] == pytest.approx(1)
    assert evaluation.eval['precision'].shape == (10, 101, 1, 3, 1)
    said = capsys.readouterr().out.splitlines()
    assert (
        ' Average Precision (AP) @[ OKS=0.50:0.95 | area=   all | maxDets= 20 ]'
        in (said[-10])
    )
    assert said[-10].endswith('=  1.000')


def test_what_is_evaluated_can_be_chosen():
    coco = COCO(ann_data=truth())
    found = coco.loadRes([pose(), pose(score=2, keypoints=[0, 0, 1, 0, 0, 1])])
    evaluation = COCOeval(coco, found, 'keypoints', SIGMAS)
    evaluation.params.maxDets = [1]
    evaluation.params.imgIds = ['a']
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == 0


def test_no_pose_is_found_nowhere():
    assert evaluated(truth(), []).stats[0] == 0
    silent = pose(keypoints=[10, 10, 0, 30, 30, 0])  # all scores are 0
    assert evaluated(truth(), [silent]).stats[0] == 0


@pytest.mark.parametrize('field', ['area', 'bbox', 'keypoints'])
def test_what_an_annotation_lacks_is_named(field):
    content = truth()
    del content['annotations'][0][field]
    with pytest.raises(InputError, match=f"Annotation 7 of .* has no '{field}', by"):
        evaluated(content, [pose()])
    if field == 'area':
        assert evaluated(content, [pose()], use_area=False).stats[0] > 0.9


def test_another_number_of_keypoints_is_refused():
    with pytest.raises(InputError, match='3 numbers for 2 keypoints, not three each'):
        evaluated(truth(), [pose(keypoints=[1, 1, 1])])


def test_sigmas_have_the_type_that_they_come_in(monkeypatch):
    """A pose on a threshold may depend on it: metainfo has float32."""
    taken = []
    monkeypatch.setattr(
        coco_api,
        'precision_recall',
        lambda *_, sigmas, **__: taken.append(sigmas) or {'precision': np.zeros(0)},
    )
    sigmas = np.array([0.026, 0.107], np.float32)
    coco = COCO(ann_data=truth())
    COCOeval(coco, coco.loadRes([]), 'keypoints', sigmas).accumulate()
    rounded = ((sigmas * 2) ** 2).astype(float)
    used = np.asarray(taken[0], float)  # as hotcoco computes
    assert ((used * 2) ** 2).tolist() == pytest.approx(rounded, rel=1e-14)
    assert ((sigmas.astype(float) * 2) ** 2).tolist() != pytest.approx(
        rounded, rel=1e-10
    )


def test_boxes_are_not_evaluated():
    with pytest.raises(InputError, match=r"'bbox' is none of keypoints, .*pycocotools"):
        evaluated(truth(), [pose()], 'bbox')


def test_nothing_is_summarized_before_it_is_computed():
    coco = COCO(ann_data=truth())
    evaluation = COCOeval(coco, coco.loadRes([]), 'keypoints', SIGMAS)
    with pytest.raises(RuntimeError, match='after accumulate'):
        evaluation.summarize()


@pytest.mark.parametrize(
    ('results', 'reason'),
    [
        ([pose(image_id='c')], 'lacks 1 of the images with results, such as c'),
        ({'poses': []}, 'is no list of results'),
        ('nowhere.json', r'nowhere\.json cannot be read: No such file'),
    ],
)
def test_other_results_are_refused(results, reason):
    with pytest.raises(InputError, match=reason):
        COCO(ann_data=truth()).loadRes(results)


def test_files_are_read_as_utf8(tmp_path):
    content = truth()
    content['categories'][0]['name'] = 'Läufer'
    path, found = tmp_path / 'truth.json', tmp_path / 'found.json'
    path.write_text(json.dumps(content, ensure_ascii=False), encoding='utf-8')
    found.write_text(json.dumps([pose()]), encoding='utf-8')
    coco = COCO(str(path))
    assert coco.cats[1]['name'] == 'Läufer'
    assert coco.anns[7]['iscrowd'] == 0
    (result,) = coco.loadRes(str(found)).anns.values()
    assert (result['id'], result['area']) == (1, 400)
    assert coco.anno_file == [str(path)]
    path.write_bytes('{"ä": 1}'.encode('latin-1'))
    with pytest.raises(InputError, match='is not JSON in UTF-8'):
        COCO(str(path))


def test_what_was_just_written_is_not_read_again(tmp_path):
    coco, path = COCO(ann_data=truth()), str(tmp_path / 'never written.json')
    found = pose(keypoints=np.array([10, 10, 1, 30, 30, 1], np.float32))
    coco.fresh = (path, [found])
    assert coco.loadRes(path).anns[1]['area'] == 400
    with pytest.raises(InputError, match='cannot be read'):
        coco.loadRes(f'{path}x')


def test_the_area_of_a_box_is_that_of_its_numbers_in_a_file():
    sides = np.array([0, 0, 95.99999, 96.00001], np.float32)
    (found,) = COCO(ann_data=truth()).loadRes([pose(bbox=sides)]).anns.values()
    assert found['area'] == float(sides[2]) * float(sides[3])
    assert found['area'] != float(sides[2] * sides[3])


def test_parts_may_have_scores_of_their_own():
    content = truth(foot_kpts=[10, 10, 2, 30, 30, 2])
    right = dict(foot_kpts=[10, 10, 1, 30, 30, 1], score=0.1)
    wrong = dict(foot_kpts=[90, 90, 1, 99, 99, 1], score=0.9)
    found = [pose(**right), pose(**wrong)]
    assert evaluated(content, found, 'keypoints_foot').stats[0] == pytest.approx(0.5)
    found[0]['foot_score'] = 1
    assert evaluated(content, found, 'keypoints_foot').stats[0] == pytest.approx(1)


def test_the_greatest_number_of_poses_is_the_last():
    coco = COCO(ann_data=truth())
    found = coco.loadRes([pose(), pose(score=2, keypoints=[0, 0, 1, 0, 0, 1])])
    evaluation = COCOeval(coco, found, 'keypoints', SIGMAS)
    evaluation.params.maxDets = [20, 1]
    evaluation.accumulate()
    assert [evaluation.eval['recall'][0, 0, 0, m] for m in range(2)] == [0, 1]


def test_images_that_a_file_has_twice_count_once():
    content = truth(num_keypoints=2)
    content['images'] = [{'id': name, 'crowdIndex': 0.5} for name in 'aba']
    coco = COCO(ann_data=content)
    evaluation = COCOeval(coco, coco.loadRes([pose()]), 'keypoints_crowd', SIGMAS)
    evaluation.params.imgIds = ['a', 'b', 'a']
    evaluation.params.maxDets = [1]  # nobody would be left for a second person
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[[0, 3, 7]] == pytest.approx([1, 1, 1])
    del content['images'][0]['crowdIndex']
    with pytest.raises(InputError, match='no "crowdIndex" from 0 to 1'):
        evaluated(content, [pose()], 'keypoints_crowd')


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        ([], 'is a JSON list, not an annotation file'),
        ({'images': []}, 'has no "categories"'),
    ],
)
def test_other_files_are_no_annotations(content, reason, tmp_path):
    path = tmp_path / 'file.json'
    path.write_text(json.dumps(content), encoding='utf-8')
    with pytest.raises(InputError, match=rf'file\.json {reason}'):
        coco = COCO(str(path))
        COCOeval(coco, coco.loadRes([]), 'keypoints', SIGMAS)


_WHICH = """
import json, sys
from sapiens_plugin.compat import coco_api
coco_api.stand_in_for_xtcocotools()
import xtcocotools.mask as mask
from xtcocotools.coco import COCO
from xtcocotools.cocoeval import COCOeval
print(json.dumps([COCO.__module__, COCOeval.__module__, mask.__name__]))
"""


def installed(folder):
    """A package called xtcocotools."""
    package = folder / 'xtcocotools'
    package.mkdir()
    for name, names in dict(coco='COCO', cocoeval='COCOeval', mask='RLE').items():
        (package / f'{name}.py').write_text(f'class {names}: pass\n', 'utf-8')
    (package / '__init__.py').touch()
    return folder


def test_the_stand_in_is_used_whether_or_not_xtcocotools_is_there(tmp_path):
    ours = ['sapiens_plugin.compat.coco_api'] * 2 + ['pycocotools.mask']
    for paths in ([], [installed(tmp_path)]):
        assert run_python(_WHICH, paths=paths)[0] == ours


def test_the_original_can_be_taken(tmp_path, monkeypatch):
    monkeypatch.setenv(coco_api.ORIGINAL, '1')
    names = [f'xtcocotools.{name}' for name in ('coco', 'cocoeval', 'mask')]
    assert run_python(_WHICH, paths=[installed(tmp_path)])[0] == names


def test_the_original_is_asked_for_by_name(monkeypatch):
    monkeypatch.setenv(coco_api.ORIGINAL, 'yes')
    with pytest.raises(InputError, match=r'=yes is neither 0 nor 1\.'):
        coco_api.takes_original()
    monkeypatch.setenv(coco_api.ORIGINAL, '1')
    monkeypatch.setattr(coco_api.importlib.util, 'find_spec', lambda _: None)
    with pytest.raises(InputError, match=r'not installed\. Build it.* or unset'):
        coco_api.stand_in_for_xtcocotools.__wrapped__()
