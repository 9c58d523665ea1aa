import numpy as np
import pytest

from sapiens_plugin.workbench.demo.drawn_people.canvas import (
    Canvas,
    bgr,
    capsule,
    darker,
    ellipse,
    lighter,
)

RED = bgr('#ff0000')
SQUARE = np.array([(8, 6), (20, 6), (20, 16), (8, 16)], float)


def moved(outline: np.ndarray, right: float) -> np.ndarray:
    return outline + np.array([right, 0])


def test_colours_are_opencvs():
    assert bgr('#ff8000') == (0, 128, 255)
    assert darker(RED, 0.5) == (0, 0, 127.5)
    assert lighter(RED, 1) == (255, 255, 255)


def test_pixels_know_who_was_drawn_on_them_last():
    canvas = Canvas(32, 24)
    canvas.fill([SQUARE], [RED], owner=3)
    canvas.fill([moved(SQUARE, 6)], [RED], owner=7)
    image, owners = canvas.image(), canvas.owners()
    assert image.shape == (24, 32, 3) and owners.shape == (24, 32)
    assert owners[10, 10] == 3
    assert owners[10, 18] == 7
    assert owners[2, 2] == 0
    assert image[10, 10].tolist() == [0, 0, 255]


def test_ink_surrounds_shapes_that_belong_together():
    canvas = Canvas(48, 24)
    canvas.fill([SQUARE, moved(SQUARE, 10)], [RED, RED], owner=1, ink=1.5)
    row = canvas.image()[10]
    assert row[7, 2] < 130  # the line to the left of the first square
    assert (row[10:28, 2] == 255).all()  # none between the two
    assert canvas.owners()[10, 7] == 1


@pytest.mark.parametrize('at', [(10.0, 10.0), (10.25, 12.5)])
def test_drawn_where_it_is_said_to_be(at):
    """The middle of a pixel has whole coordinates, as everywhere in COCO."""
    canvas = Canvas(32, 24)
    canvas.fill([ellipse(np.array(at), 6)], [(255, 255, 255)], owner=1)
    weight = canvas.image()[..., 0].astype(float)
    y, x = np.mgrid[:24, :32]
    middle = [(weight * x).sum() / weight.sum(), (weight * y).sum() / weight.sum()]
    assert middle == pytest.approx(at, abs=0.1)


def test_capsule_is_rounded_and_tapers():
    outline = capsule(np.array([10, 10]), np.array([30, 10]), 6, 2)
    assert outline[:, 0].min() == pytest.approx(4)
    assert outline[:, 0].max() == pytest.approx(32)
    assert np.ptp(outline[:, 1]) == pytest.approx(12, abs=0.1)
