import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpose.registry import TRANSFORMS

from sapiens_plugin.errors import InputError


@pytest.fixture(autouse=True)
def mmpose_scope():
    init_default_scope('mmpose')


def picture(seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (96, 72, 3), dtype=np.uint8)


def test_every_augmentation_of_the_recipe_changes_pixels(repo):
    cfg = Config.fromfile(repo / 'configs' / 'sapiens1b_gtx1650.py')
    kinds = [step.type for step in cfg.train_pipeline]
    steps = cfg.train_pipeline[
        kinds.index('TopdownAffine') + 1 : kinds.index('GenerateTarget')
    ]
    assert [step.type for step in steps] == [
        'PhotometricDistortion',
        'sapiens_plugin.RandomBlur',
        'mmdet.CutOut',
    ]
    np.random.seed(0)
    for step in steps:
        transform = TRANSFORMS.build(step)
        changed = sum(
            not np.array_equal(transform({'img': picture()})['img'], picture())
            for _ in range(200)
        )
        # Both blurs at 0.1 each act on 19% of the pictures; the others on nearly all.
        low, high = (15, 65) if 'Blur' in step.type else (190, 201)
        assert low < changed < high, (step.type, changed)


@pytest.mark.parametrize('kind', ['gaussian', 'median'])
def test_blur_smooths(kind):
    blur = TRANSFORMS.build(
        dict(type='sapiens_plugin.RandomBlur', gaussian_prob=0, median_prob=0)
        | {f'{kind}_prob': 1}
    )
    out = blur({'img': picture()})['img']
    assert out.dtype == np.uint8 and out.shape == (96, 72, 3)
    assert out.std() < 0.8 * picture().std()


@pytest.mark.parametrize(
    'content, message',
    [(None, 'is missing'), (b'', 'is empty'), (b'\xff\xd8junk', 'is not an image')],
)
def test_unreadable_images_are_named(content, message, tmp_path):
    path = tmp_path / 'a.jpg'
    if content is not None:
        path.write_bytes(content)
    load = TRANSFORMS.build(dict(type='sapiens_plugin.LoadImage'))
    with pytest.raises(InputError, match=rf'{message}.*annotation file') as error:
        load({'img_path': str(path)})
    assert str(path) in str(error.value)
