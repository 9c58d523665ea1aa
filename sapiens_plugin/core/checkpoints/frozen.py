"""Weights that do not train, kept once beside many checkpoints."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sapiens_plugin.core.weight_files.checkpoint import load_pickle
from sapiens_plugin.errors import InputError

from .run_identity import KEY as KEY_OF_RUN
from .run_identity import Run
from .saving import save_to_local
from .sealed import digest_of, verify

# What a checkpoint calls its note of the file that holds its frozen weights.
KEY = 'frozen'
# The name holds the beginning of the digest. A note may be of others' making.
_NAME = re.compile(r'frozen_[0-9a-f]{16}\.pth')
_PATTERN = 'frozen_*.pth'


def set_aside(
    weights: Mapping[str, Tensor], folder: Path, *, run: Run | None = None
) -> dict[str, str]:
    """Keep weights in a file of their own, unless it is there already.

    Args:
        weights: Tensors by name. They are not copied.
        folder: Where the checkpoint that lacks them will lie.
        run: Whose they are. Runs share no file, even of equal weights: each removes its
            own.

    Returns:
        The note for that checkpoint: the name of the file beside it, and its digest.

    Raises:
        CheckpointNotWritten: The disk did not take it.
    """
    meta = {KEY_OF_RUN: dict(id=run.id)} if run else {}
    content = dict(state_dict=dict(weights), meta=meta)
    digest = digest_of(content)
    path = folder / f'frozen_{digest[:16]}.pth'
    if not _is_whole(path, digest):
        save_to_local(content, path)
    return dict(file=path.name, digest=digest)


def is_whole(note: Mapping[str, str], folder: Path) -> bool:
    """Tell whether the file of a note of :func:`set_aside` is there as it was.

    Reads it only when its size or time has changed since it was read last.
    """
    return _is_whole(folder / note['file'], note['digest'])


def restore(checkpoint: dict, path: Path) -> None:
    """Fill in the weights that a checkpoint has a note of.

    Args:
        checkpoint: As it was loaded; its ``'state_dict'`` is completed.
        path: The file it was loaded from.

    Raises:
        InputError: The file of frozen weights is missing, damaged, or another one.
    """
    if KEY not in checkpoint:
        return
    name, digest = _read_note(checkpoint[KEY], path)
    file = path.with_name(name)
    lack = f'The checkpoint {path} lacks the weights that did not train; they are in'
    way_out = (
        f'Copy {name} to where {path.name} is, or take another checkpoint: '
        'epoch_*.pth and best_*.pth hold all weights.'
    )
    if not file.is_file():
        raise InputError(f'{lack} {file}, and there is no such file. {way_out}')
    if not _is_whole(file, digest):
        raise InputError(
            f'{lack} {file}, and that file is damaged, or not the one it was. {way_out}'
        )
    weights = load_pickle(file)
    if isinstance(weights, dict):  # those of earlier versions are the weights
        weights = weights.get('state_dict', weights)
    if not isinstance(weights, dict) or not isinstance(
        checkpoint.get('state_dict'), dict
    ):
        raise _refusal(path)
    checkpoint['state_dict'].update(weights)


def is_one(path: Path) -> bool:
    """Tell by its name whether a file holds frozen weights."""
    return path.match(_PATTERN)


def remove_unused(
    checkpoints: Iterable[Path], folder: Path, *, run: Run, keep: str
) -> None:
    """Remove a run's files of frozen weights that no checkpoint has a note of.

    Args:
        checkpoints: All that may have one.
        folder: Where they lie.
        run: The run.
        keep: A name to keep in any case.

    Raises:
        OSError: One could not be removed.
    """
    unused = {path for path in folder.glob(_PATTERN) if path.name != keep}
    if not unused:
        return
    for path in checkpoints:
        try:
            content = load_pickle(path)
            note = content.get(KEY) if isinstance(content, dict) else None
            if note is not None:
                unused.discard(path.with_name(_read_note(note, path)[0]))
        except InputError:
            return  # who knows what it needs
    for path in filter(run.owns, unused):
        path.unlink()


def _read_note(note: Any, path: Path) -> tuple[str, str]:
    match note:
        case {'file': str(name), 'digest': str(digest)} if _NAME.fullmatch(name):
            return name, digest
    raise _refusal(path)


def _refusal(path: Path) -> InputError:
    return InputError(
        f'The checkpoint {path} was refused: what it says of frozen weights in another '
        'file is not what this project writes.'
    )


def _is_whole(path: Path, digest: str) -> bool:
    try:
        return path.is_file() and verify(path) == digest
    except InputError:
        return False
