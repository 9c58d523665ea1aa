"""The config that tests change."""

import copy
from pathlib import Path

import pytest
from mmengine.config import Config

import sapiens_plugin.registry  # noqa: F401  (first: it repairs what is imported)


@pytest.fixture(scope='session')
def whole(repo_configs):
    return Config.fromfile(repo_configs / 'sapiens1b_gtx1650.py')


@pytest.fixture(scope='session')
def repo_configs():
    return Path(__file__).parents[2] / 'configs'


@pytest.fixture
def cfg(whole):
    return copy.deepcopy(whole)
