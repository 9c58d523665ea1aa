import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from sapiens_plugin.errors import UnreadableImage
from sapiens_plugin.workbench.report.keypoint_ap import Person
from sapiens_plugin.workbench.report.person_picture import person_picture

NAMES, SKELETON = ('head', 'hip', 'foot'), [[0, 1], [1, 2]]


@pytest.fixture
def photograph(tmp_path):
    """800 × 600 px, grey, with a red square of 20 px around (500, 300)."""
    pixels = np.full((600, 800, 3), 128, np.uint8)
    pixels[290:310, 490:510] = 255, 0, 0
    path = tmp_path / 'photograph.png'
    Image.fromarray(pixels).save(path)
    return path


def draw(photograph, *, box, keypoints, prediction=None) -> str:
    person = Person({'bbox': box, 'keypoints': keypoints}, prediction, 0.5)
    return person_picture(
        person, photograph, names=NAMES, skeleton=SKELETON, description='a person'
    )


def view_of(drawing: str) -> list[float]:
    return [float(v) for v in re.search(r'viewBox="([^"]+)"', drawing)[1].split()]


def test_the_picture_lies_where_it_was_cut_out(photograph):
    keypoints = [500, 300, 2, 480, 350, 2, 480, 390, 2]
    drawing = draw(photograph, box=[450, 250, 100, 150], keypoints=keypoints)
    left, top, width, height = view_of(drawing)
    # A margin of 0.15 × 150 px around the box.
    assert (left, top) == (427, 227)
    assert (left + width, top + height) == (573, 423)
    data = re.search(r'base64,([^"]+)"', drawing)[1]
    with Image.open(io.BytesIO(base64.b64decode(data))) as crop:
        red, green, _ = crop.convert('RGB').getpixel((500 - left, 300 - top))
    assert red > 200 and green < 60
    assert 'cx="500.0" cy="300.0"' in drawing


def test_keypoints_outside_the_box_are_inside_the_picture(photograph):
    keypoints = [300, 300, 2, 480, 350, 2, 480, 590, 2]
    drawing = draw(photograph, box=[450, 250, 100, 150], keypoints=keypoints)
    left, top, _, height = view_of(drawing)
    assert left < 300 and top + height > 590
    assert top + height <= 600  # no farther than the photograph


def test_a_box_beyond_the_photograph_leaves_a_picture(photograph):
    drawing = draw(photograph, box=[900, 700, 50, 50], keypoints=[900, 700, 2] * 3)
    assert view_of(drawing)[2:] == [1, 1]


def test_only_labelled_keypoints_are_drawn(photograph):
    keypoints = [500, 300, 2, 480, 350, 1, 0, 0, 0]
    prediction = np.array([[505, 300, 0.9], [485, 350, 0.9], [400, 390, 0.9]])
    drawing = draw(
        photograph,
        box=[450, 250, 100, 150],
        keypoints=keypoints,
        prediction=prediction,
    )
    assert drawing.count('<circle') == 4
    assert re.findall(r'<title>(\w+, \w+)</title>', drawing) == [
        'head, true',
        'hip, true',
        'head, predicted',
        'hip, predicted',
    ]
    assert 'd="M505.0 300.0 L485.0 350.0"' in drawing
    assert '400.0' not in drawing


def test_without_a_prediction_the_truth_stands_alone(photograph):
    drawing = draw(
        photograph, box=[450, 250, 100, 150], keypoints=[500, 300, 2] + [0] * 6
    )
    assert drawing.count('<circle') == 1 and 'predicted' not in drawing


def test_large_persons_become_small_pictures(photograph):
    drawing = draw(photograph, box=[0, 0, 800, 600], keypoints=[500, 300, 2] * 3)
    data = base64.b64decode(re.search(r'base64,([^"]+)"', drawing)[1])
    with Image.open(io.BytesIO(data)) as crop:
        assert crop.size == (340, 255)


@pytest.mark.parametrize('content', [None, b'', b'\x89PNG\r\n\x1a\n' + bytes(20)])
def test_an_image_that_cannot_be_read_is_told(tmp_path, content):
    path = tmp_path / 'broken.png'
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnreadableImage):
        draw(path, box=[0, 0, 10, 10], keypoints=[1, 1, 2] * 3)
