"""What could not be imported, and warnings on the way."""

import sys
import warnings
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.utils import get_installed_path, is_installed
from repairs import run_python, without_compiled_ops
from torch import nn

from sapiens_plugin.compat import imports

without_torchvision = pytest.mark.skipif(
    find_spec('torchvision') is not None, reason='torchvision is installed'
)


@without_compiled_ops
def test_mmcv_ops_import_and_say_what_they_lack(symptoms):
    assert symptoms['mmcv_ops'] == "ModuleNotFoundError: No module named 'mmcv._ext'"

    from mmcv.ops import nms
    from mmcv.utils.ext_loader import check_ops_exist

    boxes, scores = torch.rand(3, 4), torch.rand(3)
    with pytest.raises(NotImplementedError, match=r"'nms' of mmcv.*install the full"):
        nms(boxes, scores, 0.5)
    with warnings.catch_warnings():  # pkgutil.find_loader
        warnings.simplefilter('ignore', DeprecationWarning)
        assert not check_ops_exist()


@without_torchvision
def test_an_absent_torchvision_stays_absent(symptoms):
    assert symptoms['torchvision'] == (
        "ModuleNotFoundError: No module named 'torchvision'"
    )

    from mmpose.visualization.simcc_vis import ToPILImage

    assert 'torchvision' not in sys.modules
    assert find_spec('torchvision') is None
    with pytest.raises(NotImplementedError, match='needs torchvision'):
        ToPILImage()


_BROKEN_TORCHVISION = """
import torch
from torchvision import extension

for op in ('nms', 'qnms'):
    @torch.library.register_fake(f'torchvision::{op}')
    def _(dets, scores, iou_threshold):
        return dets.new_empty(0)

from torchvision import transforms
"""


_IMPORT_TORCHVISION = """
import json
from sapiens_plugin.compat import imports

seen = []
try:
    import torchvision
except RuntimeError as error:
    seen.append(str(error))
imports.stand_in_for_torchvision()
from torchvision.transforms import ToPILImage
print(json.dumps([*seen, ToPILImage]))
"""


def _fake_package(folder, name, **files):
    package = folder / name
    package.mkdir(parents=True)
    for file, text in {'__init__': '', **files}.items():
        (package / f'{file}.py').write_text(text, encoding='utf-8')


def test_a_torchvision_for_cuda_imports_beside_a_torch_for_cpus(tmp_path):
    # Does at import what torchvision 0.28.0 does where its own library did not load.
    _fake_package(
        tmp_path,
        'torchvision',
        __init__=_BROKEN_TORCHVISION,
        extension='tool = "the real one"',
        transforms='import torchvision; ToPILImage = torchvision.extension.tool',
    )
    seen, _ = run_python(_IMPORT_TORCHVISION, paths=[tmp_path])
    assert seen == ['operator torchvision::nms does not exist', 'the real one']


def test_mmengine_finds_packages_without_pkg_resources(monkeypatch):
    monkeypatch.setitem(sys.modules, 'pkg_resources', None)  # cannot be imported
    cfg = Config.fromstring("_base_ = 'mmpose::_base_/default_runtime.py'", '.py')
    assert cfg.default_scope == 'mmpose'
    assert Path(get_installed_path('mmpose')).is_dir()
    assert Path(get_installed_path('mmcv-lite')).name == 'mmcv'  # by top_level.txt
    assert Path(get_installed_path('json')).is_dir()
    assert is_installed('mmcv-lite') and is_installed('json')
    assert not is_installed('no_such_package')
    with pytest.raises(PackageNotFoundError):
        get_installed_path('no_such_package')


_NOTHING_IS_BROKEN = """
import json, sys
from sapiens_plugin.compat import imports

imports.stand_in_for_mmcv_ops()
imports.stand_in_for_torchvision()
import mmcv._ext, torch, torchvision
print(json.dumps([
    mmcv._ext.nms,
    torchvision.__file__,
    hasattr(torch.ops.torchvision, 'nms'),
    'mmpose' in sys.modules,
]))
"""


def test_what_works_is_left_alone(tmp_path):
    _fake_package(tmp_path, 'mmcv', _ext='nms = "compiled"')
    _fake_package(tmp_path, 'torchvision')
    seen, _ = run_python(_NOTHING_IS_BROKEN, paths=[tmp_path])
    init = tmp_path / 'torchvision' / '__init__.py'
    assert seen == ['compiled', str(init), False, False]


def _describe_coco(patch):
    from mmpose.datasets.datasets.utils import parse_pose_metainfo

    parse_pose_metainfo(dict(from_file='configs/_base_/datasets/coco.py'))


def _scale_losses(patch):
    from mmengine.optim import AmpOptimWrapper
    from mmengine.optim.optimizer import amp_optimizer_wrapper

    patch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    optimizer = torch.optim.SGD([torch.zeros(1)], 0.1)
    AmpOptimWrapper(optimizer=optimizer, loss_scale=dict(enabled=False))


def _wrap_a_model(patch):
    from mmengine.model import MMDistributedDataParallel

    dist = torch.distributed
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    try:
        MMDistributedDataParallel(nn.Linear(1, 1), broadcast_buffers=False)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    ('provoke', 'text'),
    [
        (_describe_coco, 'A matched config file'),
        (_scale_losses, 'GradScaler(args...)` is deprecated'),
        (_wrap_a_model, '`broadcast_buffers` is deprecated'),
    ],
)
def test_harmless_warnings_are_silenced_and_no_others(provoke, text, monkeypatch):
    def provoked(*repairs):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter('always')
            for repair in repairs:
                repair()
            provoke(monkeypatch)
            warnings.warn(f'{text}, says another module', UserWarning, stacklevel=1)
        return sum(text in str(warning.message) for warning in seen)

    assert provoked() == 2
    assert provoked(imports.silence_known_warnings.__wrapped__) == 1


def test_mmengine_does_not_log_its_own_deprecations(symptoms, finished_run):
    assert '"FileClient" will be deprecated' in symptoms['output']
    (log,) = finished_run.glob('*/*.log')
    text = log.read_text(encoding='utf-8')
    assert 'Saving checkpoint' in text
    assert 'will be deprecated' not in text
