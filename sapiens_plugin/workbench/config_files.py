"""What is looked after before MMEngine reads a config: name, text, COCO_ROOT."""

import ast
import os
import traceback
from difflib import get_close_matches
from pathlib import Path

from sapiens_plugin.errors import InputError

_SHIPPED = Path(__file__).resolve().parents[2] / 'configs'
_READABLE = ('.py', '.json', '.yaml', '.yml')  # by MMEngine
# What wishes of sapiens_plugin.recipe change, each as a whole.
_OF_RECIPES = (
    *('model', 'codec', 'optim_wrapper', 'param_scheduler'),
    *('train_pipeline', 'val_pipeline'),
    *('train_dataloader', 'val_dataloader', 'test_dataloader'),
    *('train_cfg', 'default_hooks', 'auto_scale_lr'),
)


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


def check_config_text(path: str | Path) -> None:
    """Check what MMEngine would misread in a config and in its bases.

    It takes a config that imports a package above ``_base_`` for one of its lazy ones,
    and does not see a ``_base_`` with an annotation. What a recipe has made, a second
    one or an assignment beside it replaces.

    Raises:
        InputError: It would; the message has the line. Or the text is no Python.
    """
    path = Path(path)
    if path.suffix != '.py' or not path.is_file():
        return  # MMEngine names a base that is missing
    try:
        tree = ast.parse(path.read_text(encoding='utf-8'))
    except (SyntaxError, ValueError) as error:
        raise unreadable(path, error) from error
    imports, bases = [], None
    for node in tree.body:
        match node:
            case ast.Import() | ast.ImportFrom():
                imports.append(node)
            case ast.Assign(targets=[ast.Name(id='_base_')], value=bases):
                _check_above_base(path, imports)
            case ast.AnnAssign(target=ast.Name(id='_base_')):
                raise InputError(
                    f'{path}, line {node.lineno}: MMEngine does not see a _base_ with '
                    "an annotation. Write _base_ = '…'."
                )
    recipes = [node for node in imports if 'sapiens_plugin.recipe' in ast.unparse(node)]
    if bases is None:
        _check_above_base(path, recipes)
        return
    if recipes:
        _check_recipe(path, tree)
    try:
        names = ast.literal_eval(bases)
    except ValueError:
        return  # computed, which MMEngine refuses
    for name in [names] if isinstance(names, str) else names:
        if '::' not in name and '{{' not in name:
            check_config_text(path.parent / name)


def _check_above_base(path: Path, imports: list[ast.Import | ast.ImportFrom]) -> None:
    # MMEngine lets some of Python's own modules pass, depending on the installation.
    if imports:
        raise InputError(
            f'{path}, line {imports[0].lineno}: no _base_ stands above '
            f'`{ast.unparse(imports[0])}`, so that MMEngine takes this for a config of '
            "its lazy kind. Begin with _base_ = '…', and import below."
        )


def _check_recipe(path: Path, tree: ast.Module) -> None:
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith('recipe')
    ]
    updates = [
        node
        for node in tree.body
        if isinstance(node, ast.Expr)
        and ast.unparse(node).startswith('globals().update(')
    ]
    made = [each for update in updates for each in ast.walk(update) if each in calls]
    if len(calls) != 1 or len(made) != 1:
        line = (calls[-1:] or tree.body)[0].lineno
        raise InputError(
            f'{path}, line {line}: a config has one recipe, with all its wishes, in '
            'globals().update(recipe(_base_, …)). A second one begins anew, and one '
            'outside of globals().update changes nothing.'
        )
    given = {*_OF_RECIPES}
    for wish in calls[0].args:
        if isinstance(wish, ast.Call) and ast.unparse(wish.func) == 'dict':
            given |= {keyword.arg for keyword in wish.keywords}
    for node in tree.body:
        for target in node.targets if isinstance(node, ast.Assign) else ():
            if isinstance(target, ast.Name) and target.id in given:
                raise InputError(
                    f'{path}, line {node.lineno}: {target.id} is assigned, and '
                    f'recipe() of line {calls[0].lineno} may give it as well: one '
                    'would replace the other. Give it to recipe as its last wish, '
                    f'dict({target.id}=...).'
                )


def unreadable(path: str | Path, error: Exception) -> InputError:
    """Say that a config cannot be read, where and why."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f'{f.filename}, line {f.lineno}' for f in frames if f.name == '<module>']
    place = f' ({lines[-1]})' if lines else ''
    return InputError(
        f'{path} cannot be read as a config: {type(error).__name__}: {error}{place}. '
        'docs/changing.md shows how wishes are written, and CHANGELOG.md what has to '
        'change in a config that was written for older bases.'
    )


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
