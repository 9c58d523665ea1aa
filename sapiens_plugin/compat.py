"""Every repair of the OpenMMLab stack, in one room.

The stack (mmengine 0.10.7, mmcv-lite 2.1.0, mmdet 3.3.0, mmpose 1.3.2) was released
before the PyTorch it runs on here. Each function below repairs one thing, says in its
docstring what was seen, why, and what is done about it, and does nothing where nothing
is broken. :func:`apply` calls them all. They must come before ``mmpose.models``, whose
import is among the things that fail; ``import sapiens_plugin.registry`` sees to that.
"""

import importlib.machinery
import importlib.util
import pickle
import re
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterable
from functools import cache, wraps
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from torch import Tensor, nn

from sapiens_plugin.core.checkpoints import frozen
from sapiens_plugin.core.checkpoints.loading import load_from_local
from sapiens_plugin.core.checkpoints.saving import save_to_local
from sapiens_plugin.core.utils.mapped import release_pages

from .datasets import loader_workers
from .errors import InputError


@cache
def apply() -> None:
    """Repair everything, once in a process."""
    silence_known_warnings()
    stand_in_for_mmcv_ops()
    stand_in_for_torchvision()
    allow_mmengine_checkpoints()
    load_checkpoints_on_cpu()
    release_loaded_weights()
    release_resumed_checkpoints()
    save_checkpoints_whole()
    format_configs_once()
    run_amp_on_cpu()
    run_distributed_on_cpu()
    check_annotation_files()
    repair_workers()
    await_dead_workers()
    outlive_full_disks()
    leave_non_finite_out_of_means()


# --- Imports ------------------------------------------------------------------------


# Text, kind and origin of warnings that no user can act on. MMEngine asks pkg_resources
# where a package is, and setuptools is pinned for that. MMPose's data sets name their
# description by its path in the source tree; the one warned about is the copy in the
# wheel that is used instead. torch.cuda.amp.GradScaler is another name of the class in
# use. MMEngine's broadcast_buffers=False does what it always did: every rank starts
# from rank 0's buffers, as Runner sends them round itself.
_HARMLESS_WARNINGS = (
    (
        'pkg_resources is deprecated as an API',
        UserWarning,
        'mmengine.utils.package_utils',
    ),
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
        Every run begins with deprecations: of pkg_resources, of MMEngine's own
        FileClient, of DistributedDataParallel's ``broadcast_buffers``, and more.

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
        sys.modules['mmcv._ext'] = _module('mmcv._ext', __getattr__=_missing_op)


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

    transforms = _module('torchvision.transforms', ToPILImage=ToPILImage)
    stand_ins = {
        'torchvision': _module('torchvision', __path__=[], transforms=transforms),
        'torchvision.transforms': transforms,
    }
    sys.modules.update(stand_ins)
    try:
        importlib.import_module('mmpose.visualization')
    finally:
        for name in stand_ins:
            del sys.modules[name]


def _module(name: str, **attributes: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, loader=None)
    vars(module).update(attributes)
    return module


# --- Checkpoints --------------------------------------------------------------------


@cache
def allow_mmengine_checkpoints() -> None:
    """Let PyTorch's restricted unpickler read what MMEngine writes.

    Symptom:
        ``--resume``: Weights only load failed.

    Cause:
        Besides tensors, a checkpoint of MMEngine holds the histories of the log and
        the colours of the data set, as ``HistoryBuffer`` and NumPy values, which
        PyTorch 2.6 and later refuse.

    Cure:
        Exactly those names are allowed, in the spellings of NumPy 1 and 2. Where a
        name could do more than make a number or an array, a narrower function answers
        to it. Loading with ``weights_only=False`` would run whatever a file asks for.
    """
    from mmengine.logging.history_buffer import HistoryBuffer

    allowed = [
        HistoryBuffer,
        (_history_buffer_method, 'builtins.getattr'),
        (_empty_bytes, 'builtins.bytes'),
        (_Dtype, 'numpy.dtype'),
        (_Array, 'numpy.ndarray'),
    ]
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
        allowed += [
            (_Array, f'{module}._reconstruct'),
            (_scalar, f'{module}.scalar'),
        ]
    torch.serialization.add_safe_globals(allowed)


def _history_buffer_method(owner: Any, name: str) -> Callable:
    """Answer for ``getattr``, by which a HistoryBuffer's statistics are pickled."""
    from mmengine.logging.history_buffer import HistoryBuffer

    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise _refusal('builtins.getattr', f'on {name!r} of {owner!r}')
    return getattr(HistoryBuffer, name)


def _refusal(name: str, purpose: str) -> pickle.UnpicklingError:
    # Worded as PyTorch words its own.
    return pickle.UnpicklingError(f'Unsupported global: GLOBAL {name} {purpose}')


def _empty_bytes() -> bytes:
    """Answer for ``bytes``, by which the values of an empty array are pickled."""
    return b''


class _Dtype:
    """Answer for ``numpy.dtype``: numbers and strings, in either byte order.

    The state of a real dtype has flags that say, among other things, that its values
    are pointers; NumPy believes them.
    """

    def __init__(self, code: str, *_):
        if not re.fullmatch(r'[biufcSU]\d+', str(code)):
            raise _refusal('numpy.dtype', f'for values of {code!r}')
        self.numpy = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        _, byte_order, *_ = state
        self.numpy = self.numpy.newbyteorder(byte_order)


class _Array(np.ndarray):
    """Answer for ``numpy.ndarray``: takes its values once, of a checked dtype.

    NumPy's own constructor would make pointers of the bytes of a file.
    """

    def __new__(cls, *_):
        return super().__new__(cls, (0,))

    def __setstate__(self, state: tuple) -> None:
        if self.shape != (0,):
            raise _refusal('numpy.ndarray', 'to take values twice')
        _, shape, dtype, fortran_order, values = state
        super().__setstate__((1, shape, dtype.numpy, fortran_order, values))

    def __reduce_ex__(self, protocol: int) -> tuple:
        # The next checkpoint must not name this class.
        return self.view(np.ndarray).__reduce_ex__(protocol)


def _scalar(dtype: _Dtype, value: bytes) -> np.generic:
    return np.frombuffer(value, dtype.numpy, count=1)[0]


@cache
def load_checkpoints_on_cpu() -> None:
    """Read every checkpoint into host memory, page by page as it is used.

    Symptom:
        ``--resume`` on a 4 GB card runs out of memory: 14 GB at 1B. A file from the
        internet runs code.

    Cause:
        ``Runner.resume`` has the whole file put where the model is, optimizer state
        included. What comes by HTTP goes through a function of ``torch.hub`` whose
        default is ``weights_only=False``.

    Cure:
        MMEngine's loaders for files and for HTTP are replaced by those of
        :mod:`sapiens_plugin.core.checkpoints`. ``load_state_dict`` of models and
        optimizers then copies each tensor to where it belongs.
    """
    from mmengine.runner import checkpoint

    checkpoint.CheckpointLoader.register_scheme('', _load_from_local, force=True)
    checkpoint.load_url = load_url


def _load_from_local(path: str, map_location: Any = None) -> dict:
    from mmengine.logging import print_log

    checkpoint = load_from_local(path)
    if frozen.KEY in checkpoint:
        print_log(
            'The weights that did not train come from '
            f'{Path(path).with_name(checkpoint[frozen.KEY]["file"])}.',
            logger='current',
        )
    return checkpoint


def load_url(
    url: str,
    model_dir: str | None = None,
    map_location: Any = None,
    progress: bool = True,
) -> dict:
    """Download a checkpoint to PyTorch's cache, once, and load it from there.

    Args:
        url: Its address.
        model_dir: Another directory than PyTorch's cache.
        map_location: Where MMEngine wants it. Not heeded.
        progress: Whether to draw a progress bar.

    Raises:
        InputError: As :func:`load_from_local`, or it could not be fetched.
    """
    folder = Path(model_dir or Path(torch.hub.get_dir(), 'checkpoints'))
    path = folder / PurePosixPath(urlparse(url).path).name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), progress=progress)
        except OSError as error:
            raise InputError(
                f'The checkpoint {url} could not be fetched ({error}). Check the '
                f'address, or put the file at {path} yourself.'
            ) from error
    return load_from_local(path)


@cache
def release_loaded_weights() -> None:
    """Keep what was copied from a checkpoint no longer in memory.

    Symptom:
        While a model of 4.5 GB is filled from its checkpoint, the process grows by
        another 4.5 GB.

    Cause:
        Pages of a mapped file stay in memory once they were looked at, as long as the
        checkpoint lives and no other process presses for memory.

    Cure:
        MMEngine's ``load_state_dict`` lets go of each module's tensors in the file
        when it comes to the next one.
    """
    from mmengine.runner import checkpoint

    checkpoint.load_state_dict = _releasing(checkpoint.load_state_dict)


def _releasing(load_state_dict: Callable) -> Callable:
    @wraps(load_state_dict)
    def load_and_release(module: nn.Module, *args, **kwargs) -> None:
        copied = []

        def before_part(_, state_dict: dict, prefix: str, *rest) -> None:
            while copied:
                release_pages(copied.pop())
            for name, value in state_dict.items():
                if isinstance(value, Tensor) and '.' not in name[len(prefix) :]:
                    copied.append(value)

        hooks = [
            part.register_load_state_dict_pre_hook(before_part)
            for part in module.modules()
        ]
        try:
            load_state_dict(module, *args, **kwargs)
        finally:
            for hook in hooks:
                hook.remove()

    return load_and_release


@cache
def release_resumed_checkpoints() -> None:
    """Give a resumed optimizer memory of its own.

    Symptom:
        On Windows, a run that was resumed cannot delete or replace the checkpoint it
        was resumed from, and stops with PermissionError when it has kept enough.

    Cause:
        ``Optimizer.load_state_dict`` copies only what has to change its device or
        dtype. Adam's step counters, and on the CPU everything, stay views of the
        mapped file, and one of them keeps all of it mapped.

    Cure:
        What the optimizer wrapper took over as it was is replaced by copies, and its
        pages of the file are let go of one by one.
    """
    from mmengine.optim import AmpOptimWrapper, BaseOptimWrapper

    # The second overrides the first without calling it.
    for wrapper in (BaseOptimWrapper, AmpOptimWrapper):
        wrapper.load_state_dict = _copying(wrapper.load_state_dict)


def _copying(load_state_dict: Callable) -> Callable:
    @wraps(load_state_dict)
    def load_and_copy(self, state_dict: dict) -> None:
        tables = [*state_dict['state'].values(), state_dict.get('base_param_settings')]
        loaded = {value.data_ptr() for _, _, value in _tensors(tables)}
        load_state_dict(self, state_dict)
        tables = [*self.optimizer.state.values(), self.base_param_settings]
        for table, name, value in _tensors(tables):
            if value.data_ptr() in loaded:
                table[name] = value.clone()
                release_pages(value)

    return load_and_copy


def _tensors(tables: Iterable[dict | None]) -> list[tuple[dict, str, Tensor]]:
    return [
        (table, name, value)
        for table in tables
        if table is not None
        for name, value in table.items()
        if isinstance(value, Tensor)
    ]


@cache
def save_checkpoints_whole() -> None:
    """Write checkpoints straight to disk, sealed, and none but whole ones.

    Symptom:
        Saving a run of 1B takes 14 GB of memory more than training it. A power cut or
        a full disk leaves half a file, maybe in the place of a whole one, and
        ``--resume`` stumbles over it. With ``max_keep_ckpts=1`` MMEngine's own
        CheckpointHook removes the one checkpoint there is before it saves the next.

    Cause:
        ``save_checkpoint`` pickles into memory first and writes in place then.

    Cure:
        A local file is written by :func:`sapiens_plugin.core.checkpoints.saving
        .save_to_local`. What goes to another backend goes MMEngine's way. A hook that
        keeps one checkpoint removes it last.
    """
    from mmengine import runner
    from mmengine.hooks import CheckpointHook

    save = _saving_whole(runner.save_checkpoint)
    for module in (runner, runner.checkpoint, runner.runner):
        module.save_checkpoint = save
    CheckpointHook._save_checkpoint_with_step = _removing_last(
        CheckpointHook._save_checkpoint_with_step
    )


def _removing_last(save_checkpoint_with_step: Callable) -> Callable:
    from mmengine.dist import is_main_process

    @wraps(save_checkpoint_with_step)
    def save(self, runner, step: int, meta: dict) -> None:
        outdated = None
        # Where more are kept, the hook removes one that last_checkpoint does not name.
        if self.max_keep_ckpts == 1 and step not in self.keep_ckpt_ids:
            outdated = next(iter(self.keep_ckpt_ids), None)
            self.keep_ckpt_ids.clear()  # so that the hook finds nothing to remove
        save_checkpoint_with_step(self, runner, step, meta)
        if outdated is not None and is_main_process():
            name = self.filename_tmpl.format(outdated)
            path = self.file_backend.join_path(self.out_dir, name)
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)

    return save


def _saving_whole(save_checkpoint: Callable) -> Callable:
    @wraps(save_checkpoint)
    def save(
        checkpoint: dict,
        filename: str,
        file_client_args: dict | None = None,
        backend_args: dict | None = None,
    ) -> None:
        if '://' in filename or file_client_args or backend_args:
            save_checkpoint(checkpoint, filename, file_client_args, backend_args)
        else:
            save_to_local(checkpoint, filename)

    return save


@cache
def format_configs_once() -> None:
    """Format the text of a config once, not for every checkpoint.

    Symptom:
        A checkpoint of the smallest model takes a second, and a run's start three.

    Cause:
        ``Config.pretty_text`` has yapf format the whole config each time. ``Runner``
        asks for it three times, and then for every checkpoint's meta.

    Cure:
        What a text was made into is remembered.
    """
    from mmengine.config import config

    format_code, texts = config.FormatCode, {}

    def format_once(text: str, **style: Any) -> tuple[str, bool]:
        if text not in texts:
            texts.clear()  # a run has one config
            texts[text] = format_code(text, **style)
        return texts[text]

    config.FormatCode = format_once


# --- Running without a GPU ----------------------------------------------------------


@cache
def run_amp_on_cpu() -> None:
    """Let ``--amp`` run where there is no accelerator.

    Symptom:
        AmpOptimizerWrapper is only available training on gpu, npu, mlu or musa.

    Cause:
        The stock wrapper asserts an accelerator, though autocast runs on CPUs too.

    Cure:
        In MMPose's scope, the same name stands for a wrapper that runs in bfloat16
        without loss scaling. With an accelerator, nothing. Checkpoints of either
        resume in the other.
    """
    from mmengine.device import get_device

    if get_device() != 'cpu':
        return

    from mmengine.logging import print_log
    from mmengine.optim import AmpOptimWrapper as StockAmpOptimWrapper
    from mmengine.optim import OptimWrapper
    from mmpose.registry import OPTIM_WRAPPERS

    @OPTIM_WRAPPERS.register_module()
    class AmpOptimWrapper(StockAmpOptimWrapper):
        def __init__(
            self,
            loss_scale: str | float | dict = 'dynamic',
            dtype: str | torch.dtype | None = None,
            use_fsdp: bool = False,
            **kwargs,
        ):
            # Not the stock wrapper's own, which is the one that asserts.
            OptimWrapper.__init__(self, **kwargs)
            self._scale_update_param = None
            self.loss_scaler = torch.amp.GradScaler('cpu', enabled=False)
            self.cast_dtype = torch.bfloat16
            print_log(
                'Mixed precision on the CPU: bfloat16, without loss scaling.',
                logger='current',
            )

        def state_dict(self) -> dict:
            # The scaler of a GPU refuses the empty state of this one, and does well
            # without any.
            state = super().state_dict()
            del state['loss_scaler']
            return state


@cache
def run_distributed_on_cpu() -> None:
    """Let ``tools/dist_train.sh`` run where there is no accelerator.

    Symptom:
        module 'torch._C' has no attribute '_cuda_setDevice'; then: device_ids and
        output_device arguments only work with single-device GPU modules.

    Cause:
        MMEngine selects a CUDA device and takes the backend ``nccl`` from the config,
        and ``Runner.wrap_model`` names a device to DistributedDataParallel.

    Cure:
        Processes meet over gloo, and no device is named. With an accelerator, nothing.
    """
    from mmengine.device import get_device

    if get_device() != 'cpu':
        return

    from mmengine.dist import utils
    from mmengine.model import MMDistributedDataParallel

    def init_dist_pytorch(backend: str, init_backend: str = 'torch', **kwargs) -> None:
        torch.distributed.init_process_group('gloo', **kwargs)

    utils._init_dist_pytorch = init_dist_pytorch

    stock_init = MMDistributedDataParallel.__init__

    @wraps(stock_init)
    def init(self, module, *args, device_ids=None, **kwargs) -> None:
        stock_init(self, module, *args, **kwargs)

    MMDistributedDataParallel.__init__ = init


# --- Data ---------------------------------------------------------------------------


@cache
def check_annotation_files() -> None:
    """Check annotation files as they are read, and keep what sizes they tell.

    Symptom:
        KeyError: 'file_name', and the like, without the name of the file. Or hours
        into an epoch, at the one person with 16 keypoints; or at the first validation,
        as an area is missing. On Windows, a name in UTF-8 stops the job. Labels lie
        beside pictures that have an EXIF orientation and were labelled unturned.

    Cause:
        The stack takes files for what they should be. The sizes that annotations give
        reach the pipeline with a detector's boxes, and with true boxes not.

    Cure:
        A file is checked while its data set is built, and the metric's file when the
        metric learns of its data set, before training. Sizes come with all persons.
    """
    from mmpose.datasets.datasets.base import base_coco_style_dataset
    from mmpose.evaluation.metrics import CocoMetric, coco_metric

    from .datasets import coco_files

    base_coco_style_dataset.COCO = coco_files.CheckedCoco
    coco_metric.COCO = coco_files.Utf8Coco
    dataset = base_coco_style_dataset.BaseCocoStyleDataset
    dataset.parse_data_info = coco_files.checked_parse(dataset.parse_data_info)
    dataset.load_data_list = coco_files.checked_load(dataset.load_data_list)
    meta = CocoMetric.dataset_meta
    CocoMetric.dataset_meta = meta.setter(coco_files.checked_meta(meta.fset))


# --- Data-loading workers -----------------------------------------------------------


@cache
def repair_workers() -> None:
    """Repair the stack in data-loading workers, too, and keep signals from them.

    Symptom:
        On Windows, with ``mmdet`` transforms in the pipeline: DataLoader worker exited
        unexpectedly, and above it: No module named 'mmcv._ext'. Elsewhere, Ctrl-C or
        SLURM's SIGTERM ends the workers, and with them a run that meant to finish its
        step. After a ``kill -9`` of the run, its workers stay.

    Cause:
        Where processes are spawned and not forked, a worker is a fresh Python that
        imports the data set's modules while it unpickles it, before any code of ours.
        Signals go to all processes of a terminal or a job. A worker that sees its
        parent gone waits for its last batch to be read.

    Cure:
        The function that a worker runs is unpickled before its arguments are. The one
        put in its place repairs the stack when that happens, and leaves signals to
        the parent (:func:`~sapiens_plugin.datasets.loader_workers.heed_parent_alone`).
    """
    from torch.utils.data._utils import worker

    worker._worker_loop = _WorkerLoop(worker._worker_loop)


class _WorkerLoop:
    """PyTorch's loop of a data-loading worker; to unpickle it repairs the stack."""

    def __init__(self, loop: Callable):
        self._loop = loop

    def __call__(self, *args) -> None:
        loader_workers.heed_parent_alone()
        self._loop(*args)

    def __reduce__(self) -> tuple:
        return _repaired_worker_loop, ()


def _repaired_worker_loop() -> Callable:
    from torch.utils.data._utils import worker

    apply()
    return worker._worker_loop


@cache
def await_dead_workers() -> None:
    """Tell of a dead data-loading worker where its batch is awaited, and only there.

    Symptom:
        The system kills a worker for memory, and the run ends with a RuntimeError out
        of any line whatever: in the middle of an optimizer step, or of a checkpoint.

    Cause:
        PyTorch's handler for the end of child processes raises in whatever the main
        thread is doing.

    Cure:
        It raises while a batch is awaited. What dies at another time is noticed when
        the next one is, and
        :class:`~sapiens_plugin.datasets.loader_workers.DeadWorkers` tells exit codes.
    """
    from torch.utils.data import dataloader
    from torch.utils.data._utils import signal_handling

    signal_handling._error_if_any_worker_fails = loader_workers.raise_if_dead
    iterator = dataloader._MultiProcessingDataLoaderIter
    iterator._get_data = loader_workers.awaiting(iterator._get_data)


# --- Records of a run ---------------------------------------------------------------


@cache
def outlive_full_disks() -> None:
    """Let a run go on when its log and its curves cannot be written.

    Symptom:
        The disk is full, and the run, whose checkpoints wait for room, ends with an
        OSError of TensorBoard or of ``scalars.json``, after a stack trace of
        TensorBoard's thread and another one for every line of the log. Pictures are
        cut, without a word.

    Cause:
        An error of one visualization backend goes through the visualizer and the hook
        that logs. TensorBoard's thread is dead from then on, so that free space does
        not help. Python's handlers of logs print the stack for every line. OpenCV
        returns False where it cannot write a file, and nobody looks.

    Cure:
        Whichever backends a config names, one that raises an OSError is warned about
        once and tried again later
        (:func:`~sapiens_plugin.engine.record_guard.guarded`). The log says once on
        stderr that it cannot be written. All of them write again when there is room.
    """
    from mmengine.logging import MMLogger
    from mmengine.visualization import LocalVisBackend, Visualizer

    from .engine import record_guard

    records = ('config', 'graph', 'image', 'scalar', 'scalars')
    for name in (*(f'add_{record}' for record in records), 'close'):
        setattr(Visualizer, name, record_guard.guarded(getattr(Visualizer, name)))
    LocalVisBackend._dump = record_guard.appending_whole(LocalVisBackend._dump)
    LocalVisBackend.add_image = record_guard.add_whole_image
    threading.excepthook = record_guard.without_tensorboard(threading.excepthook)
    MMLogger.__init__ = record_guard.telling_once(MMLogger.__init__)


@cache
def leave_non_finite_out_of_means() -> None:
    """Let the log's means tell of the steps that were taken.

    Symptom:
        After a step whose loss is not finite, and that is skipped, the loss in the log
        and in all curves is ``nan`` until the step has left the window of the mean.

    Cause:
        ``HistoryBuffer.mean`` is the mean of all values in its window.

    Cure:
        It is that of the finite ones; without any, what it was.
    """
    from mmengine.logging import HistoryBuffer

    mean = _mean_of_finite(HistoryBuffer.mean)
    # Buffers are pickled with their table, by names that have to lead to what is in it.
    HistoryBuffer.mean = HistoryBuffer._statistics_methods['mean'] = mean


def _mean_of_finite(mean: Callable) -> Callable:
    @wraps(mean)
    def mean_of_finite(buffer, window_size: int | None = None) -> float:
        value = mean(buffer, window_size)
        if np.isfinite(value):
            return value
        values, counts = (column[-(window_size or 0) :] for column in buffer.data)
        finite = np.isfinite(values)
        if not finite.any():
            return value
        return mean(type(buffer)(values[finite], counts[finite]))

    return mean_of_finite
