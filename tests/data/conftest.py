import pytest

from sapiens_plugin.data.demo import DemoPaths, make_demo


@pytest.fixture(scope='session')
def demo(tmp_path_factory) -> DemoPaths:
    """A demo data set, smaller than the default one; not to be changed."""
    root = tmp_path_factory.mktemp('demo')
    return make_demo(root, num_train=300, num_val=120)
