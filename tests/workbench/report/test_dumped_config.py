import pytest

from sapiens_plugin.errors import InputError
from sapiens_plugin.workbench.report.dumped_config import find, read_dumped_config


def read(tmp_path, text: str) -> dict:
    path = tmp_path / 'config.py'
    path.write_text(text, encoding='utf-8')
    return read_dumped_config(path)


def test_everything_that_mmengine_dumps_is_read(tmp_path):
    from mmengine.config import Config

    settings = dict(
        model=dict(type='A', size=(384, 288), rate=-1e-3, names=['ä', "it's"]),
        hooks=[dict(type='B', milestones=[1, 2]), dict(type='C', on=True, what=None)],
        keys={'a b': 1, 'c': {2: 'two'}},
    )
    assert read(tmp_path, Config(settings).pretty_text) == settings


def test_what_is_no_literal_stays_as_it_is_written(tmp_path):
    found = read(tmp_path, 'a = dict(limit=inf, size=-inf, call=open("x"))')
    assert found['a'] == {'limit': 'inf', 'size': '-inf', 'call': "open('x')"}


def test_nothing_is_executed(tmp_path):
    victim = tmp_path / 'victim'
    victim.touch()
    read(tmp_path, f'import os\nos.remove({str(victim)!r})\na = 1\n')
    assert victim.exists()


@pytest.mark.parametrize(
    'text', ['a = (', 'a = "\x00"', 'a = dict(b)', 'a = {[1]: 2}', 'a = {**b}']
)
def test_a_file_that_is_no_config_is_named(tmp_path, text):
    with pytest.raises(InputError, match=r'config\.py cannot be read'):
        read(tmp_path, text)


def test_values_are_found_by_their_paths():
    config = {'model': {'backbone': {'arch': 'sapiens_1b'}}, 'hooks': []}
    assert find(config, 'model.backbone.arch') == 'sapiens_1b'
    assert find(config, 'model.head.arch') is None
    assert find(config, 'hooks.first') is None
