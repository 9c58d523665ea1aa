"""What several tests share."""

import copy
import functools
import itertools
import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

# As in sapiens_plugin.launch, and before torch is loaded.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
if 'PYTEST_XDIST_WORKER' in os.environ:  # workers share the cores
    os.environ.setdefault('OMP_NUM_THREADS', '1')

# A shell's background jobs ignore Ctrl-C, and so would every program the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPO = Path(__file__).parents[1]
# Material that cannot be shipped with the project lies beside a checkout, if anywhere.
SHARED = REPO.parent / 'shared' / 'data'


def pytest_xdist_auto_num_workers(config):
    """One worker more than there are cores: many tests wait for child processes."""
    return (psutil.cpu_count(logical=False) or 1) + 1


@pytest.fixture
def repo() -> Path:
    return REPO


@pytest.fixture
def reference_npz() -> Path:
    """Numbers of the reference Sapiens ViT at toy size."""
    path = SHARED / 'reference' / 'sapiens_tiny_vit.npz'
    if not path.is_file():
        pytest.skip(f'reference numbers are not beside this checkout: {path}')
    return path


@pytest.fixture
def coco_mini() -> Path:
    """Four real COCO photographs; their licences do not allow to ship them."""
    path = SHARED / 'coco_mini'
    if not path.is_dir():
        pytest.skip(f'the real photographs are not beside this checkout: {path}')
    return path


@pytest.fixture(scope='session')
def demo(tmp_path_factory):
    """A very small demo data set: 24 training and 8 validation pictures."""
    from sapiens_plugin.workbench.demo.make_demo import make_demo

    return make_demo(tmp_path_factory.mktemp('demo'), num_train=24, num_val=8)


@pytest.fixture(scope='session')
def large_demo(tmp_path_factory):
    """A demo data set of 300 and 120 pictures; not to be changed."""
    from sapiens_plugin.workbench.demo.make_demo import make_demo

    return make_demo(tmp_path_factory.mktemp('demo'), num_train=300, num_val=120)


@pytest.fixture
def launched(monkeypatch, capsys):
    """Run train or test in this process; return its exit code, stdout and stderr."""
    from sapiens_plugin import launch

    def run(tool, *argv):
        monkeypatch.setattr(sys, 'argv', [f'tools/{tool}.py', *map(str, argv)])
        code = 0
        try:
            launch.main(tool)
        except SystemExit as exit_:
            code = exit_.code or 0
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def stock_coco(monkeypatch):
    """MMPose reads annotation files without this package's checks."""
    import sapiens_plugin.registry  # noqa: F401  (first: it repairs what is imported)

    from mmpose.datasets.datasets.base import base_coco_style_dataset  # isort: skip

    from sapiens_plugin.compat.coco_api import COCO

    dataset = base_coco_style_dataset.BaseCocoStyleDataset
    monkeypatch.setattr(base_coco_style_dataset, 'COCO', COCO)
    for name in ('parse_data_info', 'load_data_list'):
        monkeypatch.setattr(dataset, name, getattr(dataset, name).__wrapped__)


@pytest.fixture
def demo_config(make_demo_config, demo, tmp_path):
    """The demo's config on that data, as make_demo_config makes it."""
    return make_demo_config(demo, tmp_path / 'work')


@pytest.fixture(scope='session')
def make_demo_config():
    """Make the demo's config with a smaller model and no randomness in data.

    Every process of every loader is this one, and pictures come in order and without
    augmentation, so that two runs can be compared bit for bit.
    """
    return _make_demo_config


@pytest.fixture(scope='session')
def quick_config_texts():
    """Leave configs as they are written: to format one takes seconds, for every run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            'mmengine.config.config.FormatCode', lambda text, **_: (text, True)
        )
        yield


@pytest.fixture(scope='session')
def quick_plans():
    """Measure this machine once, and not for the plan of every training."""
    from sapiens_plugin.jobs import announce_plan

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            announce_plan, 'probe_machine', functools.cache(announce_plan.probe_machine)
        )
        yield


@pytest.fixture(scope='session')
def make_runner(quick_config_texts, quick_plans):
    """Build a stock Runner from a config, under a name of its own."""
    from mmengine.config import Config
    from mmengine.runner import Runner

    names = itertools.count()
    last_start = {}

    def make(cfg: Config, *extra_hooks) -> Runner:
        cfg = copy.deepcopy(cfg)
        # MMEngine names a log by the second, and two runs of one would share it.
        while last_start.get(cfg.work_dir) == int(time.time()):
            time.sleep(0.02)
        cfg.experiment_name = cfg.visualizer.name = f'test_{next(names)}'
        runner = Runner.from_cfg(cfg)
        last_start[cfg.work_dir] = int(time.time())
        for hook in extra_hooks:
            runner.register_hook(hook, 'LOWEST')
        return runner

    return make


def _make_demo_config(demo, work_dir: Path):
    from mmengine.config import Config

    cfg = Config.fromfile(REPO / 'configs' / 'sapiens_tiny_demo.py')
    cfg.merge_from_dict(
        {
            'work_dir': str(work_dir),
            'model.backbone.arch': dict(
                embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64
            ),
            'model.backbone.init_cfg': None,
            'model.head.in_channels': 32,
            'model.head.deconv_out_channels': (16, 16),
            'model.head.conv_out_channels': (16,),
            'train_cfg.max_epochs': 3,
            'train_cfg.val_interval': 100,
            'default_hooks.logger.interval': 1,
            'visualizer.vis_backends': [dict(type='LocalVisBackend')],
        }
    )
    cfg.train_dataloader.sampler.shuffle = False
    cfg.train_dataloader.dataset.pipeline = [
        step
        for step in cfg.train_dataloader.dataset.pipeline
        if not step.type.startswith('Random')
    ]
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.update(batch_size=8, num_workers=0, persistent_workers=False)
        loader.dataset.data_root = str(demo.root)
    cfg.train_dataloader.dataset.indices = 24  # three batches, whoever is in a picture
    return cfg
