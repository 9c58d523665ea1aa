import os

import pytest

from sapiens_plugin.core.utils import listing
from sapiens_plugin.core.utils.listing import missing, names_in, sizes


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'val').mkdir()
    for name, content in {'a.jpg': 'a', 'val/b.jpg': 'bb', 'val/c.jpg': ''}.items():
        (tmp_path / name).write_text(content, encoding='utf-8')
    return tmp_path


def test_missing_files_are_found_in_folders_below_and_elsewhere(folder, monkeypatch):
    names = ['a.jpg', 'val/b.jpg', 'b.jpg', 'no/b.jpg', 'x\0/b.jpg', 'val/A.jpg']
    assert [*missing(folder, names)] == names[2:]
    whole = [str(folder / name) for name in names]
    assert [*missing('', whole)] == whole[2:]
    monkeypatch.chdir(folder)
    assert [*missing('', names)] == names[2:]


def test_each_folder_is_listed_once(folder, monkeypatch):
    listed = []
    monkeypatch.setattr(
        listing, 'names_in', lambda place: listed.append(place) or names_in(place)
    )
    assert not [*missing(folder, ['val/b.jpg', 'a.jpg', 'val/c.jpg', 'a.jpg'])]
    assert sorted(listed) == [str(folder), os.path.join(folder, 'val')]  # noqa: PTH118


def test_names_and_sizes(folder):
    assert names_in(folder) == {'a.jpg', 'val'}
    assert sizes(folder / 'val') == {'b.jpg': 2, 'c.jpg': 0}
    for other in (folder / 'no', folder / 'a.jpg'):
        assert not names_in(other) and not sizes(other)


def test_a_link_to_nowhere_has_no_size(folder):
    try:
        (folder / 'val' / 'd.jpg').symlink_to(folder / 'no')
    except OSError:
        pytest.skip('this system lets nobody make links')
    assert sizes(folder / 'val').keys() == {'b.jpg', 'c.jpg'}
