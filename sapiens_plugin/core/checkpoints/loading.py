"""Loading checkpoints: checked, complete, and executing nothing."""

from pathlib import Path

from sapiens_plugin.core.weight_files.checkpoint import load_pickle, open_weights, sniff
from sapiens_plugin.errors import InputError

from .frozen import restore
from .sealed import verify


def load_from_local(path: str | Path) -> dict:
    """Load a checkpoint file onto the CPU.

    Weights that did not train when it was saved, and lie in another file, are filled
    in; ``checkpoint['frozen']`` then tells which.

    Args:
        path: A file of ``torch.save``, sealed or not, or safetensors.

    Raises:
        InputError: The file is missing, damaged, of another kind, or its pickle asks
            for anything but weights and what MMEngine logs; or the frozen weights are
            not there as they were.
    """
    path = Path(path).expanduser()
    if path.is_file():
        verify(path)
    kind = sniff(path)
    if kind == 'torchscript':
        raise InputError(
            f'{path} is a TorchScript archive: weights to start training from, not a '
            'checkpoint of a run. Name it in the config, or with --cfg-options '
            f'model.backbone.init_cfg.checkpoint={path}, and not as load_from, '
            '--resume or the checkpoint of tools/test.py.'
        )
    if kind == 'safetensors':
        return {name: lazy.read() for name, lazy in open_weights(path).items()}
    checkpoint = load_pickle(path)
    if not isinstance(checkpoint, dict):
        raise InputError(
            f'{path} holds a {type(checkpoint).__name__}, neither a checkpoint nor '
            'weights by name.'
        )
    # Runner.resume runs this text, of releases before 2022, as a Python config.
    if isinstance(checkpoint.get('meta'), dict):
        checkpoint['meta'].pop('config', None)
    restore(checkpoint, path)
    return checkpoint
