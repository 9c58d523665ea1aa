"""The house as docs/design.md draws it, with imports that go down only."""

import ast
import builtins
import importlib
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
PACKAGE = REPO / 'sapiens_plugin'
OPENMMLAB = {'mmcv', 'mmdet', 'mmengine', 'mmpose'}


def name_of(path: Path) -> str:
    parts = path.relative_to(REPO).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


FILES = {name_of(path): path for path in sorted(PACKAGE.rglob('*.py'))}
TREES = {name: ast.parse(path.read_text('utf-8')) for name, path in FILES.items()}


def imported(name: str) -> set[str]:
    """Everything that a file names in its imports, wherever in the file they stand."""
    names = set()
    package = name if FILES[name].name == '__init__.py' else name.rpartition('.')[0]
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split('.')[: 1 - node.level or None] if node.level else []
            base = '.'.join(filter(None, [*above, node.module]))
            names |= {f'{base}.{alias.name}' for alias in node.names}
    return names


def file_in(name: str) -> str | None:
    """The file of the package that a dotted name leads to, or into."""
    while name and name not in FILES:
        name = name.rpartition('.')[0]
    return name or None


IMPORTS = {
    name: {file_in(other) for other in imported(name)} - {None, name} for name in FILES
}


def read_map() -> list[str]:
    """What docs/design.md draws below sapiens_plugin/, from the top down, dotted."""
    text = (REPO / 'docs' / 'design.md').read_text('utf-8')
    drawn = text.split('```')[1].partition('\nsapiens_plugin/\n')[2]
    found, above = [], {0: 'sapiens_plugin'}
    for indent, name in re.findall(r'^( +)([\w/]+(?:\.py)?)(?:  |$)', drawn, re.M):
        if len(indent) > 6:
            continue  # the rest of a description
        entry = f'{above[len(indent) - 2]}.{name.removesuffix("/").removesuffix(".py")}'
        above[len(indent)] = entry
        found.append(entry)
    return found


def children(name: str, other: str) -> tuple[str, str]:
    """Where two files part: the folders or files, side by side, that they are in."""
    mine, theirs = name.split('.'), other.split('.')
    same = 0
    while mine[same : same + 1] == theirs[same : same + 1]:
        same += 1
    return '.'.join(mine[: same + 1]), '.'.join(theirs[: same + 1])


def circle(arrows: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_the_map_shows_every_folder_and_what_lies_at_the_top():
    folders = {name_of(path) for path in PACKAGE.rglob('__init__.py')}
    at_the_top = {name_of(path) for path in PACKAGE.glob('*.py')}
    drawn = read_map()
    assert len(drawn) == len(set(drawn))
    assert folders | at_the_top <= {'sapiens_plugin', *drawn} <= FILES.keys()
    assert len(at_the_top) <= 6


def test_every_folder_with_code_has_a_sign_that_imports_nothing():
    for folder in {path.parent for path in FILES.values()}:
        sign = TREES[name_of(folder / '__init__.py')]
        assert ast.get_docstring(sign), folder
        if folder != PACKAGE:
            assert len(sign.body) == 1, f'{folder}/__init__.py is more than a sign'


def test_imports_go_down_the_map():
    drawn = {name: place for place, name in enumerate(read_map())}
    climbing = []
    for name, others in IMPORTS.items():
        for other in others - {'sapiens_plugin'}:
            here, there = children(name, other)
            if {here, there} <= drawn.keys() and drawn[here] > drawn[there]:
                climbing.append(f'{name} imports {other}')
    assert not climbing


def test_no_circle_of_files():
    assert not circle(IMPORTS)


def test_no_circle_of_folders():
    arrows: dict[str, set[str]] = {}
    for name, others in IMPORTS.items():
        for other in others - {'sapiens_plugin'}:
            here, there = children(name, other)
            arrows.setdefault(here, set()).add(there)
    assert not circle(arrows)


@pytest.mark.parametrize('storey', ['core', 'workbench'])
def test_the_lower_storeys_do_without_openmmlab(storey):
    for name in FILES:
        if name.startswith(f'sapiens_plugin.{storey}'):
            roots = {other.partition('.')[0] for other in imported(name)}
            assert not roots & OPENMMLAB, name


# --- What the repository's texts name -----------------------------------------------

TEXTS = [
    path
    for place in (
        *('README.md', 'setup.py', 'docs', 'configs', 'tools', 'benchmarks', 'tests'),
        'sapiens_plugin',
    )
    for path in [REPO / place, *(REPO / place).rglob('*')]
    if path.suffix in ('.py', '.md', '.sh')
]


@pytest.fixture(scope='module')
def registered():
    """The names that configs can use, from all registries of the package."""
    from mmengine.registry import Registry

    from sapiens_plugin import registry

    names = set()
    for each in vars(registry).values():
        if isinstance(each, Registry) and each.scope == 'sapiens_plugin':
            each.import_from_location()
            names |= each.module_dict.keys()
    return names


def leads_somewhere(name: str) -> bool:
    module = file_in(name)
    found = importlib.import_module(module)
    for part in name.removeprefix(module).split('.')[1:]:
        if not hasattr(found, part):
            return hasattr(builtins, part)  # a test puts another one into the module
        found = getattr(found, part)
    return True


def test_every_name_of_the_package_in_any_text_leads_somewhere(registered):
    # The names of any module, of some, and of files that are no modules.
    names_of_others = {'NAME', 'Streamed', 'pth', 'py'}
    lost = []
    for path in TEXTS:
        text = path.read_text('utf-8')
        for name in set(re.findall(r'\bsapiens_plugin(?:\.\w+)+', text)):
            known = name.partition('.')[2] in registered | names_of_others
            if not known and not leads_somewhere(name):
                lost.append(f'{path.relative_to(REPO)}: {name}')
    assert not lost


def test_every_file_that_code_and_docs_name_is_there():
    pattern = (
        r'(?<![\w/.-])(?:benchmarks|docs|sapiens_plugin|tests|tools)/[\w/.-]+\.\w+'
    )
    lost = []
    for path in TEXTS:
        if REPO / 'tests' in path.parents:
            continue  # they make up names, too
        for name in set(re.findall(pattern, path.read_text('utf-8'))):
            if not (REPO / name).is_file():
                lost.append(f'{path.relative_to(REPO)}: {name}')
    assert not lost


def test_the_docs_list_what_configs_can_name(registered):
    text = (REPO / 'docs' / 'design.md').read_text('utf-8')
    table = text.partition('## Names for configs')[2]
    names = ' '.join(re.findall(r'^\| (`.*?) \|', table, re.M))
    assert set(re.findall(r'\w+', names)) == registered


def test_names_for_other_programs_are_the_modules_of_core():
    public = importlib.import_module('sapiens_plugin.vit')
    for name in ('architectures', 'lifting', 'model', 'pos_embed'):
        module = importlib.import_module(f'sapiens_plugin.core.vit.{name}')
        assert importlib.import_module(f'sapiens_plugin.vit.{name}') is module
    assert (
        public.SapiensViT
        is importlib.import_module('sapiens_plugin.vit.model').SapiensViT
    )
