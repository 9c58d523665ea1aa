"""Shipped jobs, read once and measured once."""

from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest

CONFIGS = Path(__file__).parents[2] / 'configs'


@cache
def read(name: str) -> SimpleNamespace:
    from sapiens_plugin.jobs.read_config import load_config
    from sapiens_plugin.workbench.job.job import Persons
    from sapiens_plugin.workbench.job.reader import read_job

    path = CONFIGS / f'{name}.py'
    cfg = load_config(path)
    coco = Persons(train=149_813, val=6_352, test=104_000)
    return SimpleNamespace(
        cfg=cfg,
        job=read_job(cfg, path).changed(persons=coco),
        # Their heads are the same: what one job measured need not be measured again.
        measure=measurer('demo' if 'demo' in name else 'sapiens1b_gtx1650'),
    )


@cache
def measurer(name: str):
    from sapiens_plugin.jobs.read_config import load_config, stage_measurer

    (path,) = CONFIGS.glob(f'*{name}.py')
    return stage_measurer(load_config(path))


@pytest.fixture(scope='session')
def shipped():
    """Gives a shipped config's ``cfg``, its ``job`` on COCO and its ``measure``."""
    return read
