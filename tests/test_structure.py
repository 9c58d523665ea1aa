"""The package as docs/design.md draws it, with imports that go down only."""

import ast
import builtins
import importlib
import re
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
PACKAGE = REPO / 'sapiens_plugin'
OPENMMLAB = {'mmcv', 'mmdet', 'mmengine', 'mmpose', 'xtcocotools'}
BELOW_PYTORCH = {
    'PIL',
    'cv2',
    'filelock',
    'hotcoco',
    'numpy',
    'pycocotools',
    'rich',
    'safetensors',
    'torch',
}


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


def read_map(below: str = '') -> list[str]:
    """What docs/design.md draws in sapiens_plugin/, from the top down, dotted.

    Args:
        below: A part of a line; what stands above that does not count.
    """
    text = (REPO / 'docs' / 'design.md').read_text('utf-8')
    drawn = text.split('```')[1].partition('\nsapiens_plugin/\n')[2]
    assert below in drawn
    drawn = drawn.partition(below)[2] if below else drawn
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


def test_the_map_shows_every_folder_and_the_files_beside_them():
    folders = {name_of(path) for path in PACKAGE.rglob('__init__.py')}
    layers = PACKAGE, PACKAGE / 'core', PACKAGE / 'workbench'
    loose = {name_of(path) for layer in layers for path in layer.glob('*.py')}
    drawn = read_map()
    assert len(drawn) == len(set(drawn))
    assert folders | loose <= {'sapiens_plugin', *drawn} <= FILES.keys()
    assert len([*PACKAGE.glob('*.py')]) <= 6


def test_every_folder_says_what_is_in_it_and_imports_nothing():
    for folder in {path.parent for path in FILES.values()}:
        face = TREES[name_of(folder / '__init__.py')]
        assert ast.get_docstring(face), folder
        if folder != PACKAGE:
            assert len(face.body) == 1, f'{folder}/__init__.py is more than a docstring'


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


def test_the_lower_layers_need_no_more_than_the_map_says():
    without_openmmlab = tuple(read_map(below='no package of OpenMMLab from here on'))
    machinery = tuple(read_map(below='the machinery: PyTorch and below'))
    assert set(machinery) < set(without_openmmlab)
    for name in FILES:
        needs = {other.partition('.')[0] for other in imported(name)}
        needs -= {*sys.stdlib_module_names, 'sapiens_plugin'}
        if name.startswith(without_openmmlab):
            assert not needs & OPENMMLAB, name
        if name.startswith(machinery):
            assert needs <= BELOW_PYTORCH, name


def test_tests_lie_where_their_subjects_do():
    for path in (REPO / 'tests').rglob('test_*.py'):
        folder = path.parent.relative_to(REPO / 'tests')
        is_there = (PACKAGE / folder).is_dir() or (REPO / folder).is_dir()
        assert is_there or folder.name == 'helpers', path


# --- What the repository's texts name -----------------------------------------------

TEXTS = [
    path
    for place in (
        *('README.md', 'data/README.md', 'work_dirs/README.md', 'setup.py', 'docs'),
        *('configs', 'tools', 'benchmarks', 'tests', 'sapiens_plugin'),
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
            # A test puts another one into the module.
            is_file = FILES[module].name != '__init__.py'
            return is_file and name == f'{module}.{part}' and hasattr(builtins, part)
        found = getattr(found, part)
    return True


def named_in(text: str) -> set[str]:
    """All dotted names of the package in a text, and what it imports from them."""
    names = set(re.findall(r'\bsapiens_plugin(?:\.\w+)+', text))
    statement = r'\bfrom (sapiens_plugin[.\w]*) import (\([^)]*\)|[\w, ]+)'
    for module, imports in re.findall(statement, text):
        imports = re.sub(r'#.*| as \w+', '', imports)
        names |= {f'{module}.{name}' for name in re.findall(r'\w+', imports)}
    return names


def test_every_name_of_the_package_in_any_text_leads_somewhere(registered):
    # The names of any module, of some, and of files that are no modules.
    names_of_others = {'NAME', 'Streamed', 'pth', 'py'}
    lost = []
    for path in TEXTS:
        for name in named_in(path.read_text('utf-8')):
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
    assert all(hasattr(public, name) for name in public.__all__)
    for room, names in dict(
        vit=['architectures', 'lifting', 'model', 'pos_embed'],
        weight_files=['checkpoint', 'sampling', 'untrusted'],
    ).items():
        for name in names:
            module = importlib.import_module(f'sapiens_plugin.core.{room}.{name}')
            assert importlib.import_module(f'sapiens_plugin.vit.{name}') is module
