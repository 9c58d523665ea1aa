"""Reads the config that MMEngine wrote down for a run, executing nothing."""

import ast
from pathlib import Path

from sapiens_plugin.errors import InputError


def read_dumped_config(path: Path) -> dict:
    """Read the top-level names of a dumped config.

    Such a file holds nothing but literals and ``dict(…)``. A value that is something
    else, such as ``inf``, becomes the text that stands there.

    Raises:
        InputError: It cannot be read as Python.
    """
    try:
        tree = ast.parse(Path(path).read_text(encoding='utf-8'))
        return {
            statement.targets[0].id: _value(statement.value)
            for statement in tree.body
            if isinstance(statement, ast.Assign)
            and isinstance(statement.targets[0], ast.Name)
        }
    except (SyntaxError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f'{path} cannot be read as a config ({error}).') from error


def find(config: dict, path: str) -> object:
    """Return the value at a dotted path such as ``model.backbone.arch``, or None."""
    value: object = config
    for name in path.split('.'):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _value(node: ast.expr) -> object:
    if isinstance(node, ast.Call) and getattr(node.func, 'id', None) == 'dict':
        # Names that are no identifiers stand in a mapping: dict({'a b': 1}).
        found = {k: v for given in node.args for k, v in _value(given).items()}
        return found | {pair.arg: _value(pair.value) for pair in node.keywords}
    if isinstance(node, ast.Dict):
        return {
            _value(key): _value(value)
            for key, value in zip(node.keys, node.values, strict=True)
        }
    if isinstance(node, ast.List):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_value(item) for item in node.elts)
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)
