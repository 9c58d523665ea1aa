"""Names of configs and COCO_ROOT, looked at before anything slow."""

import os

import pytest

from sapiens_plugin.errors import InputError
from sapiens_plugin.workbench.config_files import (
    check_config_name,
    check_new_config_name,
    mend_coco_root,
)


def test_a_config_that_is_meant_is_named(repo, tmp_path):
    check_config_name(repo / 'configs' / 'sapiens1b_a100.py')
    (tmp_path / 'mine.py').touch()
    for name, says in (
        ('mne.py', f'Did you mean {tmp_path / "mine.py"}'),
        ('mine', f'Did you mean {tmp_path / "mine.py"}'),
        ('sapiens1b_a10.py', r'Did you mean .*sapiens1b_a100.py'),
        ('something else', r'The shipped ones are in .*configs'),
    ):
        with pytest.raises(InputError, match=says):
            check_config_name(tmp_path / name)


def test_what_cannot_be_a_config_is_refused(tmp_path):
    with pytest.raises(InputError, match='is a folder'):
        check_config_name(tmp_path)
    (tmp_path / 'mine.py').touch()
    with pytest.raises(InputError, match=r'Name a config in it: mine.py'):
        check_config_name(tmp_path)
    (tmp_path / 'log.txt').touch()
    with pytest.raises(InputError, match=r'log.txt is not a config'):
        check_config_name(tmp_path / 'log.txt')


def test_a_new_config_needs_its_folder_and_its_name(tmp_path):
    check_new_config_name(tmp_path / 'new.py')
    (tmp_path / 'old.py').touch()
    for name, says in (
        ('old.py', 'is there already'),
        ('new.txt', 'ends with .py'),
        ('no/new.py', 'there is no folder'),
    ):
        with pytest.raises(InputError, match=says):
            check_new_config_name(tmp_path / name)


def test_coco_root_may_begin_with_a_tilde(monkeypatch):
    monkeypatch.setenv('HOME', '/home/someone')
    monkeypatch.setenv('USERPROFILE', '/home/someone')
    monkeypatch.setenv('COCO_ROOT', '~/coco')
    mend_coco_root()
    assert os.environ['COCO_ROOT'] == '/home/someone/coco'
    monkeypatch.setenv('COCO_ROOT', '')
    mend_coco_root()
    assert 'COCO_ROOT' not in os.environ
