import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sapiens_plugin.core.coco.keypoints import KEYPOINT_NAMES, person_category
from sapiens_plugin.errors import InputError
from sapiens_plugin.workbench.report.keypoint_ap import COCO_SIZES, Evaluation

# As pycocotools has them.
SIGMAS = COCOeval(iouType='keypoints').params.kpt_oks_sigmas
WRIST = KEYPOINT_NAMES.index('left_wrist')
FAR_OFF = 500.0  # px


def make_person(number: int, *, image: int = 1, side: float = 100.0) -> dict:
    """A person 1,000 px from the next, with all keypoints labelled."""
    rng = np.random.default_rng(number)
    corner = np.array([1000.0 * number, 100.0])
    places = corner + rng.uniform(0, side, (17, 2))
    return {
        'id': number,
        'image_id': image,
        'category_id': 1,
        'iscrowd': 0,
        'bbox': [*corner, side, side],
        'area': side**2,
        'num_keypoints': 17,
        'keypoints': [v for x, y in places.tolist() for v in (x, y, 2)],
    }


def make_dataset(persons: list[dict]) -> dict:
    images = sorted({person['image_id'] for person in persons})
    return {
        'images': [{'id': i, 'file_name': f'{i}.jpg'} for i in images],
        'categories': [person_category()],
        'annotations': persons,
    }


def predict(person: dict, *, score: float = 0.9, off: float = 0.0) -> dict:
    keypoints = np.reshape(person['keypoints'], (17, 3)).astype(float)
    keypoints[:, 0] += off
    keypoints[:, 2] = 0.8
    return {
        'image_id': person['image_id'],
        'category_id': 1,
        'keypoints': keypoints.ravel().tolist(),
        'score': score,
    }


def evaluate(persons: list[dict], results: list[dict]) -> Evaluation:
    return Evaluation(make_dataset(persons), results, sigmas=SIGMAS)


# Persons are counted from 0, an id that pycocotools cannot tell from no match.
def test_perfect_predictions_have_an_ap_of_one_everywhere():
    persons = [make_person(n, image=n % 2) for n in range(4)]
    evaluation = evaluate(persons, [predict(person) for person in persons])
    assert evaluation.overall().ap == pytest.approx(1)
    for precision in evaluation.by_keypoint():
        assert (precision.ap, precision.ap50, precision.ar) == pytest.approx((1, 1, 1))
        assert precision.persons == 4


def test_a_keypoint_that_is_off_falls_alone():
    persons = [make_person(n) for n in range(4)]
    results = [predict(person) for person in persons]
    for result in results:
        result['keypoints'][3 * WRIST] += FAR_OFF
    found = [precision.ap for precision in evaluate(persons, results).by_keypoint()]
    assert found.pop(WRIST) == pytest.approx(0)
    assert found == pytest.approx([1] * 16)


def test_the_sigma_of_a_keypoint_is_its_own():
    """So far off that a hip, with a sigma of 0.107, is near and an eye is not."""
    person = make_person(1)
    found = evaluate([person], [predict(person, off=7.0)]).by_keypoint()
    by_name = dict(zip(KEYPOINT_NAMES, found, strict=True))
    for name, sigma in zip(KEYPOINT_NAMES, SIGMAS, strict=True):
        oks = np.exp(-(7.0**2) / (2 * 100.0**2 * (2 * sigma) ** 2))
        thresholds = np.arange(0.5, 0.96, 0.05)
        assert by_name[name].ap == pytest.approx(np.mean(oks >= thresholds)), name
    assert by_name['left_hip'].ap > 0.8 and by_name['nose'].ap < 0.3


def test_half_of_the_persons_give_half_of_the_recalls():
    """By hand: the two right ones rank first, so up to a recall of 0.5 all is right."""
    persons = [make_person(n) for n in range(4)]
    results = [predict(person, score=0.9 - n / 10) for n, person in enumerate(persons)]
    for result in results[2:]:
        result['keypoints'][3 * WRIST] += FAR_OFF
    found = evaluate(persons, results).by_keypoint()[WRIST]
    assert found.ap == pytest.approx(51 / 101)
    assert found.ar == pytest.approx(0.5)


def test_persons_without_the_label_are_ignored():
    persons = [make_person(n) for n in range(3)]
    results = [predict(person) for person in persons]
    for person, result in zip(persons[1:], results[1:], strict=True):
        person['keypoints'][3 * WRIST : 3 * WRIST + 3] = [0, 0, 0]
        result['score'] = 0.95  # or they would rank behind the right one anyway
        result['keypoints'][3 * WRIST] += 20  # anywhere in the person's box
    found = evaluate(persons, results).by_keypoint()[WRIST]
    assert (found.persons, found.ap) == (1, pytest.approx(1))


def test_a_keypoint_that_nobody_has_has_no_ap():
    person = make_person(1)
    person['keypoints'][:3] = [0, 0, 0]
    found = evaluate([person], [predict(person)]).by_keypoint()[0]
    assert found.persons == 0
    assert np.isnan(found.ap)


def noisy() -> tuple[list[dict], list[dict]]:
    rng = np.random.default_rng(0)
    persons = [
        make_person(n, image=n // 3, side=float(rng.uniform(40, 200)))
        for n in range(1, 31)
    ]
    persons[4]['iscrowd'] = 1
    persons[7]['keypoints'][2::3] = [0] * 17
    persons[10]['keypoints'][2::3] = [2] * 5 + [0] * 12
    results = []
    for person in persons:
        result = predict(person, score=float(rng.uniform(0.2, 1)))
        noise = rng.normal(0, 8, 34).reshape(17, 2)
        result['keypoints'][0::3] = result['keypoints'][0::3] + noise[:, 0]
        result['keypoints'][1::3] = result['keypoints'][1::3] + noise[:, 1]
        results.append(result)
    return persons, results


def test_whole_persons_and_sizes_are_those_of_pycocotools():
    persons, results = noisy()
    evaluation = evaluate(persons, results)
    for person in persons:
        person['num_keypoints'] = sum(flag > 0 for flag in person['keypoints'][2::3])
    truth = COCO()
    truth.dataset = make_dataset(persons)
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        reference = COCOeval(truth, truth.loadRes(results), 'keypoints')
        reference.evaluate()
        reference.accumulate()
        reference.summarize()
    found = [evaluation.overall(), *evaluation.by_size(COCO_SIZES)]
    assert [f.ap for f in found] == pytest.approx(reference.stats[[0, 3, 4]].tolist())
    assert [f.ar for f in found] == pytest.approx(reference.stats[[5, 8, 9]].tolist())
    assert found[0].ap50 == pytest.approx(reference.stats[1])
    assert 0.1 < found[0].ap < 0.9  # neither end would tell much
    assert found[0].persons == 28 == found[1].persons + found[2].persons


def test_persons_are_given_the_predictions_that_suit_them():
    persons, results = noisy()
    counted = [p for n, p in enumerate(persons) if n not in (4, 7)]
    evaluation = evaluate(persons, results[::-1])
    truth = COCO()
    truth.dataset = make_dataset(persons)
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        reference = COCOeval(truth, truth.loadRes(results), 'keypoints')
        reference._prepare()
    matched = {p.annotation['id']: p for p in evaluation.matched()}
    assert sorted(matched) == [person['id'] for person in counted]
    for person in counted:
        similarity = reference.computeOks(person['image_id'], 1)
        column = [p['id'] for p in persons if p['image_id'] == person['image_id']]
        best = similarity[:, column.index(person['id'])].max()
        assert matched[person['id']].oks == pytest.approx(best)


def test_a_person_without_a_prediction_has_none():
    persons = [make_person(1), make_person(2)]
    matched = evaluate(persons, [predict(persons[1])]).matched()
    assert [(p.annotation['id'], p.oks) for p in matched] == [(1, 0.0), (2, 1.0)]
    assert matched[0].prediction is None


def test_annotations_without_areas_get_those_of_their_boxes():
    person = make_person(1)
    del person['area'], person['num_keypoints'], person['iscrowd']
    (matched,) = evaluate([person], [predict(person)]).matched()
    assert matched.annotation['area'] == pytest.approx(0.53 * 100**2)


def test_what_was_given_stays_as_it_was():
    person = make_person(1)
    result = predict(person)
    before = repr((person, result))
    evaluation = evaluate([person], [result])
    evaluation.overall()
    evaluation.by_keypoint()
    assert repr((person, result)) == before


def test_predictions_on_other_images_are_refused():
    person, stranger = make_person(1, image=1), make_person(2, image=77)
    with pytest.raises(InputError, match=r'lack 1 of the images .* 77'):
        evaluate([person], [predict(stranger)])


def test_other_keypoints_are_refused():
    person = make_person(1)
    person['keypoints'] = person['keypoints'][:-3]
    with pytest.raises(InputError, match='Annotation 1 has 48 numbers for 17'):
        evaluate([person], [])


def test_annotations_of_another_kind_are_refused():
    with pytest.raises(InputError, match='not that of COCO keypoints'):
        Evaluation({'images': []}, [], sigmas=SIGMAS)


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
@pytest.mark.parametrize('place', ['keypoints', 'score', 'bbox'])
def test_predictions_that_are_not_finite_are_left_out(place, value):
    persons = [make_person(n, image=n % 2) for n in range(4)]
    results = [predict(person) for person in persons]
    results[1]['bbox'] = [0.0, 0.0, 10.0, 10.0]
    if place == 'score':
        results[1]['score'] = value
    else:
        results[1][place][3] = value
    evaluation = evaluate(persons, results)
    assert evaluation.dropped == 1
    matched = evaluation.matched()
    assert sorted(person.oks for person in matched) == pytest.approx([0, 1, 1, 1])
    assert evaluation.overall().ar == pytest.approx(0.75)


def test_all_predictions_may_be_left_out():
    persons = [make_person(n) for n in range(2)]
    results = [predict(person, off=float('nan')) for person in persons]
    evaluation = evaluate(persons, results)
    assert evaluation.dropped == 2
    assert evaluation.overall().ap == 0
    assert [precision.ap for precision in evaluation.by_keypoint()] == [0] * 17
    assert [person.prediction for person in evaluation.matched()] == [None] * 2
