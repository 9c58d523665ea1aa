"""Imports: what has to be repaired before the stack can be imported."""

import importlib.machinery
import importlib.metadata
import importlib.util
import re
import sys
import types
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

# Text, kind and origin of warnings that no user can act on. MMPose's data sets name
# their description by its path in the source tree; the one warned about is the copy in
# the wheel that is used instead. torch.cuda.amp.GradScaler is another name of the class
# in use. MMEngine's broadcast_buffers=False does what it always did: every rank starts
# from rank 0's buffers, as Runner sends them round itself.
_HARMLESS_WARNINGS = (
    (
        'The metainfo config file .* A matched config file',
        UserWarning,
        'mmpose.datasets.datasets.utils',
    ),
    (
        '`torch.cuda.amp.GradScaler',
        FutureWarning,
        'mmengine.optim.optimizer.amp_optimizer_wrapper',
    ),
    (
        '`broadcast_buffers` is deprecated',
        FutureWarning,
        'mmengine.model.wrappers.distributed',
    ),
)


@cache
def silence_known_warnings() -> None:
    """Keep warnings that no user can act on out of the log.

    Symptom:
        Every run begins with deprecations: of MMEngine's own FileClient, of
        DistributedDataParallel's ``broadcast_buffers``, and more.

    Cause:
        The stack calls what has newer names by now.

    Cure:
        Each of them is ignored by its text, its kind and the module it comes from. The
        two that go through MMEngine's log are all that its module logs.
    """
    from mmengine.fileio import file_client

    for message, category, module in _HARMLESS_WARNINGS:
        warnings.filterwarnings('ignore', message, category, re.escape(module) + '$')
    file_client.print_log = lambda *args, **kwargs: None


@cache
def find_packages_by_metadata() -> None:
    """Let MMEngine find packages without pkg_resources.

    Symptom:
        ``import mmpose``: No module named 'pkg_resources'.

    Cause:
        It was a part of setuptools before 82.

    Cure:
        ``importlib.metadata`` is asked in its place.
    """
    from mmengine.utils import package_utils

    for new in (is_installed, get_installed_path):
        old = getattr(package_utils, new.__name__)
        for name, module in list(sys.modules.items()):
            if name.startswith('mmengine') and vars(module).get(new.__name__) is old:
                setattr(module, new.__name__, new)


def is_installed(package: str) -> bool:
    """Tell whether there is a package, or a module, of that name."""
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        spec = importlib.util.find_spec(package)
        return spec is not None and spec.origin is not None
    return True


def get_installed_path(package: str) -> str:
    """Return the folder of the module of a package.

    Raises:
        PackageNotFoundError: There is no such package and no such module.
    """
    try:
        found = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise
        return str(Path(spec.origin).parent)
    names = [package, *(found.read_text('top_level.txt') or '').split()]
    paths = [Path(str(found.locate_file(name))) for name in names]
    return str(next(filter(Path.exists, paths), paths[0]))


@cache
def stand_in_for_mmcv_ops() -> None:
    """Let ``mmcv.ops`` be imported without its compiled half.

    Symptom:
        ``import mmpose.models``: No module named 'mmcv._ext'.

    Cause:
        mmcv-lite has no compiled ops, and heads of MMPose that a top-down ViT does
        not use import them.

    Cure:
        A stand-in module whose ops raise when they are called. With full mmcv,
        nothing.
    """
    if importlib.util.find_spec('mmcv._ext') is None:
        sys.modules['mmcv._ext'] = make_module('mmcv._ext', __getattr__=_missing_op)


def _missing_op(name: str) -> Callable:
    if name.startswith('__'):  # the import system looks for __path__ and the like
        raise AttributeError(name)

    def op(*args, **kwargs):
        raise NotImplementedError(
            f'The compiled op {name!r} of mmcv was called, and the installed mmcv-lite '
            'has none. A top-down ViT needs no such op; for a model that does, install '
            'the full mmcv 2.1.0 in the place of mmcv-lite.'
        )

    return op


@cache
def stand_in_for_torchvision() -> None:
    """Let ``mmpose.visualization`` be imported whatever torchvision there is.

    Symptom:
        No module named 'torchvision', or: operator torchvision::nms does not exist.

    Cause:
        MMPose's drawing of SimCC heat maps imports ``ToPILImage``. A torchvision built
        for CUDA cannot load its ops beside a CPU-only torch, and fails at giving them
        shape rules.

    Cure:
        Without torchvision, a stand-in that is gone as soon as that import is over:
        one that stayed would tell other packages that torchvision is there. Beside a
        CPU-only torch, the two ops are declared and the import is done again. With a
        torchvision that works, nothing.
    """
    if importlib.util.find_spec('torchvision') is None:
        _import_visualization_without_torchvision()
        return
    try:
        importlib.import_module('torchvision')
    except RuntimeError as error:
        if 'operator torchvision::' not in str(error):
            raise
        for op in ('nms', 'qnms'):
            torch.library.define(
                f'torchvision::{op}',
                '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor',
            )
        importlib.import_module('torchvision')


def _import_visualization_without_torchvision() -> None:
    class ToPILImage:
        def __init__(self, *args):
            raise NotImplementedError(
                'Drawing SimCC heat maps needs torchvision, which is not installed.'
            )

    transforms = make_module('torchvision.transforms', ToPILImage=ToPILImage)
    stand_ins = {
        'torchvision': make_module('torchvision', __path__=[], transforms=transforms),
        'torchvision.transforms': transforms,
    }
    sys.modules.update(stand_ins)
    try:
        importlib.import_module('mmpose.visualization')
    finally:
        for name in stand_ins:
            del sys.modules[name]


def make_module(name: str, **attributes: Any) -> types.ModuleType:
    """Return a module of such a name and content that nobody has to find."""
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, loader=None)
    vars(module).update(attributes)
    return module
