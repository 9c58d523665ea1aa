import numpy as np
import pytest

from sapiens_plugin.workbench.demo.drawn_people import places, scene
from sapiens_plugin.workbench.demo.drawn_people.canvas import Canvas
from sapiens_plugin.workbench.demo.drawn_people.scene import draw_picture


def test_same_generator_same_picture():
    first, again, other = (draw_picture(np.random.default_rng(s)) for s in (4, 4, 5))
    assert np.array_equal(first.image, again.image)
    for one, same in zip(first.people, again.people, strict=True):
        assert np.array_equal(one.keypoints, same.keypoints)
        assert (one.box, one.area) == (same.box, same.area)
    assert not np.array_equal(first.image[:100, :100], other.image[:100, :100])


@pytest.mark.parametrize('place', range(6))
def test_every_place_is_calm_but_not_empty(place):
    canvas = Canvas(256, 256)
    horizon = places._PLACES[place](canvas, np.random.default_rng(place))
    assert 0.4 * 256 <= horizon <= 0.7 * 256
    image = canvas.image()
    assert (image.max(axis=2) > 0).all()  # every pixel is painted
    assert 3 < image.std() < 60
    assert (canvas.owners() == 0).all()


def test_labels_of_a_person_cut_by_the_border(monkeypatch):
    monkeypatch.setattr(scene, '_CLOSE_UP', 1.0)
    absent = []
    for seed in range(20):
        picture = draw_picture(np.random.default_rng(seed))
        (person,) = picture.people
        _, top, _, height = person.box
        assert top + height == picture.image.shape[0]
        ankles = person.keypoints[15:]
        absent.append((ankles[:, 2] == 0).all())
        assert (person.keypoints[person.keypoints[:, 2] == 0] == 0).all()
    assert np.mean(absent) > 0.5


def test_company_is_two_people_of_whom_one_may_hide_the_other(monkeypatch):
    monkeypatch.setattr(scene, '_CLOSE_UP', 0.0)
    monkeypatch.setattr(scene, '_WITH_COMPANY', 1.0)
    monkeypatch.setattr(scene, '_WITH_THING_IN_FRONT', 0.0)
    occluded = np.zeros(2)
    for seed in range(40):
        people = draw_picture(np.random.default_rng(seed)).people
        assert len(people) == 2
        occluded += [(p.keypoints[:, 2] == 1).sum() for p in people]
    assert occluded[0] > occluded[1]  # the farther one is the first


def test_things_in_front_occlude(monkeypatch):
    monkeypatch.setattr(scene, '_WITH_COMPANY', 0.0)
    occluded = []
    for share in (0.0, 1.0):
        monkeypatch.setattr(scene, '_WITH_THING_IN_FRONT', share)
        people = [draw_picture(np.random.default_rng(s)).people[0] for s in range(40)]
        occluded.append(sum((p.keypoints[:, 2] == 1).sum() for p in people))
    assert occluded[1] > occluded[0] + 15
