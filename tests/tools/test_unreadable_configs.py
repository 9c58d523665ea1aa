"""A config that cannot be read: one paragraph, and the same one in every command."""

import importlib.util
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

REPO = Path(__file__).resolve().parents[2]
BASE = (REPO / 'configs' / 'sapiens1b_a100.py').as_posix()
RECIPE = 'from sapiens_plugin.recipe import recipe, resized'
CASES = {
    'a typo in its name': (None, r"The config \S+mi\.py does not exist\. Did you mean"),
    'a syntax error': ('model = dict(', 'cannot be read as a config: SyntaxError'),
    'an error when it runs': ('a = b', 'cannot be read as a config: NameError'),
    'a base that is missing': ("_base_ = 'no.py'", 'cannot be read as a config'),
    'an import above its base': (
        f'{RECIPE}\n_base_ = {BASE!r}\n',
        r'mine\.py, line 1: no _base_ stands above `from sapiens_plugin\.recipe imp',
    ),
    'a recipe without a base': (f'{RECIPE}\n', 'line 1: no _base_ stands above `from'),
    'an annotated base': (f'_base_: str = {BASE!r}\n', 'line 1: .* with an annotation'),
    'a fault in its base': ("_base_ = 'lazy.py'\n", r'lazy\.py, line 1: .* `import nu'),
    'an assignment beside a recipe': (
        f'_base_ = {BASE!r}\n{RECIPE}\n'
        'globals().update(recipe(_base_, resized(320, 240)))\nmodel = dict()\n',
        r'line 4: model is assigned, and recipe\(\) of line 3 .*dict\(model=\.\.\.\)',
    ),
    'a second recipe': (
        f'_base_ = {BASE!r}\n{RECIPE}\n'
        + 'globals().update(recipe(_base_, resized(320, 240)))\n' * 2,
        r'line 4: a config has one recipe, .* begins anew',
    ),
    'a recipe for nothing': (
        f'_base_ = {BASE!r}\n{RECIPE}\nrecipe(_base_, resized(320, 240))\n',
        r'line 3: a config has one recipe, .* changes nothing',
    ),
    'an assignment of what a recipe gives': (
        f'_base_ = {BASE!r}\n{RECIPE}\nload_from = None\n'
        "globals().update(recipe(_base_, dict(load_from='x.pth')))\n",
        r'line 3: load_from is assigned, and recipe\(\) of line 4',
    ),
    'a wish without its brackets': (
        f'_base_ = {BASE!r}\n{RECIPE}\nglobals().update(recipe(_base_, resized))\n',
        r'TypeError: resized\(\) .*mine\.py, line 3\)\. docs/changing\.md shows',
    ),
    'a wish that is none': (
        f"_base_ = {BASE!r}\n{RECIPE}\nglobals().update(recipe(_base_, 'small'))\n",
        r"mine\.py: recipe\(…\): 'small' is no wish",
    ),
    'a config for older bases': (
        f'_base_ = {BASE!r}\ncustom_hooks = [*_base_.custom_hooks[:-1]]\n',
        r"AttributeError: .* 'custom_hooks' \(\S+mine\.py, line 2\).* CHANGELOG",
    ),
    'a hook that is none': (
        f'_base_ = {BASE!r}\n{RECIPE}\n'
        'globals().update(recipe(_base_, dict(default_hooks=dict(pictrues=None))))\n',
        r'default_hooks\.pictrues is none of the hooks .* pictures, ',
    ),
    'a config that is its own base': ("_base_ = 'mine.py'\n", 'RecursionError'),
    'a base that is no name': ('_base_ = 5\n', 'cannot be read as a config: TypeErr'),
    'a wish that cannot be met': (
        f'_base_ = {BASE!r}\n{RECIPE}\n'
        'globals().update(recipe(_base_, resized(321, 240)))\n',
        r'mine\.py: An input of 321×240',
    ),
}  # fmt: skip


@pytest.fixture
def say(monkeypatch, capsys):
    """Run a command in this process; return what it says of its input."""
    here = SimpleNamespace(
        enter_environment=lambda: None, PYTHONS='', ROOT=REPO, RUN_THIS='',
        BootstrapError=Exception, become=None, find_python=None,
        outlive_readers=None, venv_python=None,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, 'bootstrap', here)

    def say(tool: str, *arguments) -> str:
        from sapiens_plugin import launch
        from sapiens_plugin.workbench import command

        monkeypatch.setattr(sys, 'argv', [tool, *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            if tool in ('train', 'test'):
                launch.main(tool)
            else:
                path = REPO / 'tools' / f'{tool}.py'
                spec = importlib.util.spec_from_file_location(f'the_{tool}', path)
                module = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(module)
                command.run(f'tools/{tool}.py', module.main)
        assert ended.value.code == 2
        start, _, said = capsys.readouterr().err.strip().partition(f'{tool}.py: ')
        assert start == 'tools/' and '\n\n' not in said and 'Traceback' not in said
        return said

    return say


@pytest.mark.parametrize('case', CASES)
def test_every_command_says_the_same(case, say, tmp_path):
    text, message = CASES[case]
    (tmp_path / 'mine.py').write_text(text or '', encoding='utf-8')
    (tmp_path / 'lazy.py').write_text(f'import numpy\n_base_ = {BASE!r}\n')
    path = tmp_path / ('mine.py' if text else 'mi.py')
    said = {
        say('train', path),
        say('test', path, 'weights.pth'),
        say('plan', path),
        say('check_setup', path),
    }
    assert len(said) == 1, said
    assert re.search(message, *said)


def test_options_that_do_not_go_with_a_config(say):
    option = ('--cfg-options', 'param_scheduler.7.type=1')
    assert say('train', BASE, *option) == say('check_setup', BASE, *option)
    assert say('train', BASE, *option).startswith('--cfg-options do not go with ')
    option = ('--cfg-options', 'default_hooks.phase_swich.warmup_epochs=3')
    assert say('train', BASE, *option) == say('check_setup', BASE, *option)
    assert say('train', BASE, *option).startswith('default_hooks.phase_swich is none ')
