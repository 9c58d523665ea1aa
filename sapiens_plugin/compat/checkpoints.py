"""Checkpoints: read into host memory and written to disk whole, without a copy."""

from collections.abc import Callable, Iterable
from functools import cache, wraps
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from sapiens_plugin.core.checkpoints import frozen
from sapiens_plugin.core.checkpoints.loading import load_from_local
from sapiens_plugin.core.checkpoints.saving import save_to_local
from sapiens_plugin.core.utils.mapped import release_pages
from sapiens_plugin.errors import InputError


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
