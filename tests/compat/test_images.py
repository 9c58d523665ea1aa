"""Images as their labels were drawn: read and drawn on so, by whoever reads."""

import json
import shutil
import sys

import numpy as np
import pytest
from mmengine.registry import init_default_scope
from mmengine.runner import save_checkpoint
from mmpose.registry import MODELS, TRANSFORMS
from mmpose.structures import PoseDataSample
from PIL import Image

import sapiens_plugin.registry  # noqa: F401  (repairs how images are read)
from sapiens_plugin import launch

WIDTH, HEIGHT = 60, 40
ORIENTATION = 0x0112
LEFT_TOP = (255, 0, 0)  # RGB, of the labelled picture's first quarter


@pytest.fixture(autouse=True)
def mmpose_scope():
    init_default_scope('mmpose')


@pytest.fixture
def picture(tmp_path):
    """Write a picture whose tag says to turn it by 90°; return its path."""

    def write(name='turned.jpg'):
        exif = Image.Exif()
        exif[ORIENTATION] = 6
        pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        pixels[: HEIGHT // 2, : WIDTH // 2] = LEFT_TOP
        Image.fromarray(pixels).save(tmp_path / name, exif=exif, quality=100)
        return tmp_path / name

    return write


def sizes(turned):
    """(H, W) that the labels are in, and where the red quarter is then."""
    return ((WIDTH, HEIGHT), (5, -5)) if turned else ((HEIGHT, WIDTH), (5, 5))


@pytest.mark.parametrize('turned', [False, True])
@pytest.mark.parametrize('name', ['a.jpg', 'a.png', 'a.webp'])
@pytest.mark.parametrize('loader', ['LoadImage', 'sapiens_plugin.LoadImage'])
def test_any_loader_reads_as_was_labelled(loader, name, turned, picture):
    load = TRANSFORMS.build(dict(type=loader))
    shape, red = sizes(turned)
    read = load(dict(img_path=str(picture(name)), img_shape=shape))
    assert read['img'].shape[:2] == read['ori_shape'] == shape
    assert np.abs(read['img'][red].astype(int) - LEFT_TOP[::-1]).max() < 30


def test_other_ways_to_read_stay_mmposes(picture):
    options = dict(type='LoadImage', color_type='color_ignore_orientation')
    read = TRANSFORMS.build(options)(dict(img_path=str(picture())))
    assert read['img'].shape == (HEIGHT, WIDTH, 3)
    empty = TRANSFORMS.build(dict(type='LoadImage', ignore_empty=True))
    assert empty(dict(img_path='nowhere.jpg')) is None


@pytest.mark.parametrize('turned', [False, True])
@pytest.mark.parametrize('name', ['a.jpg', 'a.webp'])
def test_what_is_drawn_on_is_what_was_read(name, turned, picture):
    import mmcv
    from mmpose.visualization import PoseLocalVisualizer

    path = picture(name)
    shape, red = sizes(turned)
    image = mmcv.imread(path, channel_order='rgb')
    sample = PoseDataSample(metainfo=dict(img_path=str(path), ori_shape=shape))
    drawn = PoseLocalVisualizer().add_datasample('a', image, sample, draw_pred=False)
    assert drawn.shape[:2] == shape
    assert np.abs(drawn[red].astype(int) - LEFT_TOP).max() < 30


def test_a_crop_of_that_size_is_drawn_on_as_it_is(picture):
    from mmpose.visualization import PoseLocalVisualizer

    crop = np.full((WIDTH, HEIGHT, 3), 7, np.uint8)
    meta = dict(img_path=str(picture()), ori_shape=(HEIGHT, WIDTH))
    sample = PoseDataSample(metainfo=meta)
    drawn = PoseLocalVisualizer().add_datasample('a', crop, sample, draw_pred=False)
    assert np.array_equal(drawn, crop)


@pytest.fixture
def turned_job(demo, demo_config, tmp_path):
    """A test whose pictures say to turn them, and were labelled as they lie."""
    root = shutil.copytree(demo.root, tmp_path / 'data')
    for path in (root / 'images' / 'val').iterdir():
        exif = Image.Exif()
        exif[ORIENTATION] = 6
        with Image.open(path) as image:
            width, height = image.size
            image.crop((0, 0, width, height - 4)).save(path, exif=exif)
    path = root / 'annotations' / 'person_keypoints_val.json'
    content = json.loads(path.read_text('utf-8'))
    for image in content['images']:
        image['height'] -= 4
    path.write_text(json.dumps(content), encoding='utf-8')
    demo_config.test_dataloader.dataset.data_root = str(root)
    demo_config.default_hooks.badcase = dict(
        type='BadCaseAnalysisHook',
        enable=False,
        out_dir='badcase',
        metric_type='loss',
        metric=dict(type='KeypointMSELoss'),
        badcase_thr=0,
    )
    demo_config.dump(tmp_path / 'job.py')
    state = MODELS.build(demo_config.model).state_dict()
    save_checkpoint(dict(state_dict=state), str(tmp_path / 'untrained.pth'))
    return root


@pytest.mark.parametrize('options', [['--show-dir', 'shown'], ['--badcase']])
def test_pictures_of_a_test_lie_as_their_labels(
    options, turned_job, tmp_path, monkeypatch
):
    config, weights = tmp_path / 'job.py', tmp_path / 'untrained.pth'
    monkeypatch.setattr(sys, 'argv', ['test.py', str(config), str(weights), *options])
    launch.main('test')
    path = turned_job / 'annotations' / 'person_keypoints_val.json'
    images = json.loads(path.read_text('utf-8'))['images']
    sizes = {(one['width'], one['height']) for one in images}
    assert all(width != height for width, height in sizes)
    folder = 'shown' if '--show-dir' in options else 'badcase'
    drawn = [p for p in (tmp_path / 'work').rglob('*.jpg') if folder in p.parts]
    assert drawn
    for path in drawn:
        with Image.open(path) as image:
            assert image.size in sizes
