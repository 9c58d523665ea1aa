"""What is looked after before MMEngine reads a config: its name, and COCO_ROOT."""

import os
from difflib import get_close_matches
from pathlib import Path

from sapiens_plugin.errors import InputError

_SHIPPED = Path(__file__).resolve().parents[2] / 'configs'
_READABLE = ('.py', '.json', '.yaml', '.yml')  # by MMEngine


def mend_coco_root() -> None:
    """Write COCO_ROOT as MMEngine can put it into a config.

    It raises where a variable is set but empty, and takes backslashes for escapes.
    """
    root = os.environ.pop('COCO_ROOT', '')
    if root:
        os.environ['COCO_ROOT'] = Path(root).expanduser().as_posix()


def check_config_name(path: str | Path) -> None:
    """Check that a config is a file that could be one.

    Raises:
        InputError: It is not; the message names what may be meant.
    """
    path = Path(path)
    if path.is_dir():
        configs = sorted(each.name for each in path.glob('*.py'))
        raise InputError(
            f'{path} is a folder. Name a config'
            + (
                f' in it: {", ".join(configs)}.'
                if configs
                else f', such as those of {_SHIPPED}.'
            )
        )
    if not path.is_file():
        near = {each.name: each for each in _SHIPPED.glob('*.py')}
        near |= {each.name: each for each in path.parent.glob('*.py')}
        alike = get_close_matches(path.name, near, n=1) or get_close_matches(
            f'{path.name}.py', near, n=1
        )
        raise InputError(
            f'The config {path} does not exist. '
            + (
                f'Did you mean {near[alike[0]]}?'
                if alike
                else f'The shipped ones are in {_SHIPPED}.'
            )
        )
    if path.suffix not in _READABLE:
        raise InputError(f'{path} is not a config: those are .py files.')


def check_new_config_name(path: str | Path) -> None:
    """Check that a config can be written there.

    Raises:
        InputError: It is there already, has another suffix, or its folder is missing.
    """
    path = Path(path)
    if path.suffix != '.py':
        raise InputError(f'--write {path}: the name of a config ends with .py.')
    if path.exists():
        raise InputError(f'--write {path} is there already. Name another file.')
    if not path.parent.is_dir():
        raise InputError(f'--write {path}: there is no folder {path.parent}. Make it.')
