"""What a config says of memory, read off plain mappings."""

import sys

import pytest
import torch
from mmengine.config import Config

from sapiens_plugin.jobs.read_config import load_config, stage_measurer
from sapiens_plugin.workbench.job.reader import read_job, read_worker_memory
from sapiens_plugin.workbench.setup_check.setup_memory import least_memory

MB = 10**6


def config(train, val=None, **env):
    """Loaders of (workers, persistent)."""
    loaders = {
        f'{split}_dataloader': given
        and dict(num_workers=given[0], persistent_workers=given[1])
        for split, given in (('train', train), ('val', val))
    }
    return loaders | env


@pytest.mark.parametrize(
    ('train', 'val', 'number'),
    [
        ((2, True), (2, True), 4),
        ((2, True), (1, False), 3),  # those of training wait for the validation
        ((2, False), (1, True), 3),  # and the other way round, from epoch 2 on
        ((2, False), (3, False), 3),
        ((2, True), None, 2),
        ((0, False), (0, False), 0),
    ],
)
def test_workers_that_live_at_once(monkeypatch, train, val, number):
    monkeypatch.setattr(sys, 'platform', 'linux')
    memory = read_worker_memory(config(train, val))
    assert memory == dict(forked_workers=number * 100 * MB)


def test_workers_of_a_loop_by_iterations_wait_for_the_validation(monkeypatch):
    monkeypatch.setattr(sys, 'platform', 'linux')
    cfg = config((2, False), (3, False), train_cfg=dict(by_epoch=False))
    assert read_worker_memory(cfg) == dict(forked_workers=5 * 100 * MB)
    nothing = config((None, False), (3, False))
    assert read_worker_memory(nothing) == dict(forked_workers=3 * 100 * MB)


@pytest.mark.parametrize(
    ('platform', 'env', 'name', 'each'),
    [
        ('linux', dict(mp_start_method='fork'), 'forked_workers', 100 * MB),
        ('linux', dict(mp_start_method='spawn'), 'spawned_workers', 400 * MB),
        ('linux', dict(mp_start_method='forkserver'), 'spawned_workers', 400 * MB),
        ('linux', None, 'forked_workers', 100 * MB),
        ('darwin', dict(mp_start_method='fork'), 'forked_workers', 100 * MB),
        ('win32', dict(mp_start_method='fork'), 'spawned_workers', 400 * MB),
        ('win32', None, 'spawned_workers', 400 * MB),
    ],
)
def test_how_workers_are_started(monkeypatch, platform, env, name, each):
    monkeypatch.setattr(sys, 'platform', platform)
    cfg = config((2, True), env_cfg=dict(mp_cfg=env))
    assert read_worker_memory(cfg) == {name: 2 * each}


def test_mmengine_starts_them_so(monkeypatch):
    """It asks for what the config says, but on Windows for nothing."""
    from mmengine.utils.dl_utils import setup_env

    asked = []
    monkeypatch.setattr(
        setup_env.mp, 'set_start_method', lambda method, force: asked.append(method)
    )
    for system in ('Linux', 'Darwin', 'Windows'):
        monkeypatch.setattr(setup_env.platform, 'system', lambda name=system: name)
        setup_env.set_multi_processing()
    assert asked == ['fork', 'fork']


def old_form(cfg):
    """Write the hooks of a config as configs before named hooks have them."""
    hooks = cfg['default_hooks']
    ours = [name for name in hooks if name in ('phase_switch', 'flip_test')]
    return cfg | dict(
        default_hooks={name: hooks[name] for name in hooks if name not in ours},
        custom_hooks=[hooks[name] for name in ours],
    )


@pytest.mark.parametrize('form', [dict, old_form])
def test_hooks_are_found_wherever_they_stand(repo, form):
    path = repo / 'configs' / 'sapiens1b_gtx1650.py'
    cfg = Config.fromfile(path, import_custom_modules=False).to_dict()
    job = read_job(form(cfg), path)
    assert (job.warmup_epochs, job.val_flip, job.test_flip) == (10, False, True)
    cfg['default_hooks']['phase_switch'] = None
    cfg['default_hooks']['flip_test'] = None
    job = read_job(cfg, path)
    assert (job.warmup_epochs, job.val_flip, job.test_flip) == (0, True, True)


def test_a_job_that_counts_iterations_can_be_checked(repo):
    path = repo / 'configs' / 'sapiens_tiny_demo.py'
    cfg = Config.fromfile(path, import_custom_modules=False).to_dict()
    cfg['train_cfg'] = dict(by_epoch=False, max_iters=50)
    job = read_job(cfg, path, ['train_cfg.max_iters=50'])
    assert job.max_epochs is None and sum(job.disk_use().values()) > 0
    assert least_memory(job, stage_measurer(load_config(path)), torch.float32) > 0
