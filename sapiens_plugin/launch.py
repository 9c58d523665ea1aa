"""Hand a job over to MMPose's own command-line tools.

``tools/train.py`` and ``tools/test.py`` are the scripts inside the installed mmpose
wheel, with all their flags. What is added here is a look at what the config names
before anything slow starts, and errors of the user's input as one paragraph.
"""

import atexit
import importlib.util
import logging
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from types import ModuleType

from sapiens_plugin.core.utils.home import expand_texts
from sapiens_plugin.errors import InputError
from sapiens_plugin.workbench.command import Interrupted, prepare
from sapiens_plugin.workbench.config_files import mend_coco_root

# What torch's workers and MMEngine's registries put before a message on its way up.
_WRAPPING = re.compile(
    r'.*(\w*InputError|UnreadableImage): |class `\w+` in [\w/\\.:-]+: ', re.DOTALL
)


def stock_tool(name: str) -> Path:
    """Find one of the tools inside the installed mmpose wheel, importing nothing.

    Args:
        name: File name, such as ``'train.py'`` or ``'dist_train.sh'``.

    Raises:
        InputError: mmpose is not installed, or came without its tools.
    """
    spec = importlib.util.find_spec('mmpose')
    path = Path(spec.origin).parent / '.mim' / 'tools' / name if spec else None
    if path is None or not path.is_file():
        raise InputError(
            f'MMPose and its {name} are not installed in this Python '
            f'({sys.executable}). Run `python3 tools/quickstart.py` once, then use '
            'the Python of .venv.'
        )
    return path


def prepare_torch(environ: MutableMapping[str, str]) -> None:
    """Set what PyTorch reads once it is loaded, unless the user has set it.

    Args:
        environ: The environment, of this process or of one to be started.
    """
    # OpenMP threads that have nothing to do wait by spinning, and take the core that a
    # data-loading worker needs (benchmarks/openmp_wait.py).
    environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
    # GPU memory in pieces that can grow leaves no gaps. Windows does not have them, and
    # nobody has tried them on its Linux.
    allocator = ('PYTORCH_ALLOC_CONF', 'PYTORCH_CUDA_ALLOC_CONF')
    if (
        sys.platform == 'linux'
        and 'microsoft' not in platform.release().lower()
        and not any(name in environ for name in allocator)
    ):
        environ['PYTORCH_ALLOC_CONF'] = 'expandable_segments:True'


def main(tool: str) -> None:
    """Check the inputs of a job, then run the stock tool on ``sys.argv``.

    Args:
        tool: ``'train'`` or ``'test'``.
    """
    prepare_torch(os.environ)
    prepare(outlives_full_disk=True)
    mend_coco_root()
    try:
        stock = _load(stock_tool(f'{tool}.py'))
        args = stock.parse_args()
        cfg = _read_config(args)
        if tool == 'train':
            _check_flags(cfg, args)
            cfg = stock.merge_args(cfg, args)
            _check_training(cfg)
        else:
            _check_test(stock.merge_args(cfg, args))
        stock.main()
        _leave_group()
    except InputError as error:
        message = _WRAPPING.sub('', str(error)).strip()
        print(f'\ntools/{tool}.py: {message}', file=sys.stderr)
        sys.exit(2)
    except Interrupted as interruption:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # one more shall not cut this off
        _tell_how_to_resume(interruption, args)
        # Somebody who cannot wait for Python to tidy up shall see no traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        sys.exit(128 + interruption.signum)
    except (KeyboardInterrupt, SyntaxError) as error:
        if not _is_ctrl_c(error):
            raise
        print(f'\ntools/{tool}.py: interrupted.', file=sys.stderr)
        sys.exit(130)


def _leave_group() -> None:
    """Part from the other processes, and end this one.

    A wrapped model, say, still holds the group, whose threads would abort an ordinary
    exit: "terminate called without an active exception".
    """
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
        atexit._run_exitfuncs()
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _is_ctrl_c(error: BaseException | None) -> bool:
    """Tell whether an error is Ctrl-C, or what MMEngine makes of it.

    ``Config.pretty_text`` takes whatever ends its formatter for an error of syntax.
    """
    while not isinstance(error, KeyboardInterrupt | None):
        error = error.__context__
    return error is not None


def _tell_how_to_resume(interruption: Interrupted, args: Namespace) -> None:
    from mmengine.dist import is_main_process

    if not is_main_process():
        return
    if interruption.saved is None:
        state = 'Nothing could be saved, and it goes on from the checkpoint before'
    else:
        state = f'It is saved in {interruption.saved} and goes on from there'
    if args.launcher == 'none':
        way = f'with\n\n{resume_command(sys.argv, args.resume)}'
    else:
        way = 'when the same command is run again with --resume.'
    print(f'\nThe training was interrupted. {state} {way}', file=sys.stderr)


def resume_command(argv: list[str], resume: str | None) -> str:
    """Write the command that goes on with a training.

    Args:
        argv: That which it was started with.
        resume: The value of its ``--resume``, if it had that.
    """
    kept, takes_value = [], False
    for word in argv:
        flag, equals, _ = word.partition('=')
        is_resume = len(flag) > 2 and '--resume'.startswith(flag)
        if not is_resume and not (takes_value and word == resume):
            kept.append(word)
        takes_value = is_resume and not equals
    words = [sys.executable, *kept, '--resume']
    return subprocess.list2cmdline(words) if os.name == 'nt' else shlex.join(words)


def _load(script: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f'stock_{script.stem}', script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _read_config(args: Namespace) -> Mapping:
    from sapiens_plugin.jobs.read_config import load_config
    from sapiens_plugin.workbench.setup_check.gpu_probe import warn_if_gpu_unused

    cfg = load_config(args.config, expand_texts(args.cfg_options))
    warn_if_gpu_unused()
    return cfg


def _check_flags(cfg: Mapping, args: Namespace) -> None:
    """Check what the stock tool asserts of its flags."""
    wrapper = cfg.optim_wrapper.get('type', 'OptimWrapper')
    if args.amp and wrapper not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise InputError(
            f'--amp puts AmpOptimWrapper in the place of {wrapper}, which chooses its '
            'precision itself. Leave --amp out; a streamed model has '
            '--cfg-options model.precision=... for it.'
        )
    if args.auto_scale_lr and 'auto_scale_lr' not in cfg:
        raise InputError(
            '--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in the '
            'config: the images an iteration for which its learning rate was chosen.'
        )


def _check_training(cfg: Mapping) -> None:
    from sapiens_plugin.jobs.agreement import check_agreement
    from sapiens_plugin.workbench.job.reader import check_schedule

    check_schedule(cfg)
    if {'type', 'by_epoch'} <= (cfg.get('train_cfg') or {}).keys():
        raise InputError(
            f'train_cfg has type={cfg.train_cfg.type!r} and by_epoch, and MMEngine '
            'takes one of them. Leave by_epoch out; for a loop of MMEngine say '
            'train_cfg=dict(_delete_=True, by_epoch=..., ...).'
        )
    check_agreement(cfg, 'train', 'val')
    _check_dataset(cfg.train_dataloader.dataset)
    if cfg.get('val_dataloader'):
        _check_dataset(cfg.val_dataloader.dataset)
    init_cfg = cfg.model.get('backbone', {}).get('init_cfg')
    if not cfg.get('resume'):  # CheckpointHook looks at what is resumed from
        _check_weights(cfg.get('load_from'))
        if isinstance(init_cfg, Mapping):
            _check_weights(init_cfg.get('checkpoint'))
    _check_work_dir(cfg)
    if not cfg.get('resume'):
        _check_nothing_is_lost(cfg)


def _check_test(cfg: Mapping) -> None:
    from sapiens_plugin.jobs.agreement import check_agreement

    check_agreement(cfg, 'test')
    _check_dataset(cfg.test_dataloader.dataset)
    _check_weights(cfg.load_from)
    _check_work_dir(cfg)


def _check_dataset(dataset: Mapping) -> None:
    from sapiens_plugin.core.utils.json_file import check_json_file
    from sapiens_plugin.workbench.setup_check.setup_checks import check_image_directory

    if 'ann_file' not in dataset:
        return  # a wrapper of other data sets: ImageCheckHook looks into it
    way_out = (
        'Put the data there, or say where they are (COCO: COCO_ROOT; else on_data() of '
        'sapiens_plugin.recipe, or data_root of the data sets); '
        '`python3 tools/download_coco.py` brings COCO.'
    )
    root = Path(os.path.normpath(dataset.get('data_root') or '.'))
    check_json_file(root / dataset.ann_file, what='annotation file', way_out=way_out)
    if dataset.get('bbox_file'):
        check_json_file(
            dataset.bbox_file,
            what='file of person detections',
            way_out='Fetch it (COCO: `python3 tools/download_coco.py`), or test on '
            "annotated boxes: --cfg-options test_dataloader.dataset.bbox_file=''",
        )
    images = root / dataset.get('data_prefix', {}).get('img', '')
    check_image_directory(images, way_out=way_out)


def _check_weights(path: str | None) -> None:
    from sapiens_plugin.core.weight_files.checkpoint import sniff

    if path is not None and '://' not in path:
        sniff(path)


def _check_nothing_is_lost(cfg: Mapping) -> None:
    """Refuse to begin anew in the place of a run."""
    from sapiens_plugin.core.checkpoints import run_files, run_identity
    from sapiens_plugin.workbench.job.reader import checkpoint_hook

    hook = checkpoint_hook(cfg)
    work_dir = Path(cfg.work_dir).absolute()
    folder = run_files.folder_of(work_dir, hook.get('out_dir'))
    found = run_files.resumable(folder, hook.get('filename_tmpl') or run_files.BY_EPOCH)
    found |= run_files.best(folder)
    run = run_identity.run_of(work_dir) or run_identity.Run('', str(work_dir))
    if run.shares(folder):
        found = set()  # the checkpoints of this run go beside that folder
    if found or run_files.last_of(cfg.work_dir):
        what = min(found) if found else f'last_checkpoint in {cfg.work_dir}'
        raise InputError(
            f'There is {what}, of a run whose checkpoints a new one would replace. Go '
            'on with that run by --resume, name another directory with --work-dir, or '
            'delete this one.'
        )


def _check_work_dir(cfg: Mapping) -> None:
    from sapiens_plugin.workbench.setup_check import setup_checks

    setup_checks.check_writable(
        cfg.work_dir,
        way_out='Name another with --work-dir, or free the way to this one.',
    )
