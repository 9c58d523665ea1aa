import pytest

from sapiens_plugin.data.demo import DemoPaths, make_demo


@pytest.fixture
def stock_coco(monkeypatch):
    """MMPose reads annotation files without this package's checks."""
    from mmpose.datasets.datasets.base import base_coco_style_dataset
    from xtcocotools.coco import COCO

    import sapiens_plugin.registry  # noqa: F401

    dataset = base_coco_style_dataset.BaseCocoStyleDataset
    monkeypatch.setattr(base_coco_style_dataset, 'COCO', COCO)
    for name in ('parse_data_info', 'load_data_list'):
        monkeypatch.setattr(dataset, name, getattr(dataset, name).__wrapped__)


@pytest.fixture(scope='session')
def demo(tmp_path_factory) -> DemoPaths:
    """A demo data set, smaller than the default one; not to be changed."""
    root = tmp_path_factory.mktemp('demo')
    return make_demo(root, num_train=300, num_val=120)
