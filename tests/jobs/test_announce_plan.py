"""The plan that a training leaves in its work directory."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from sapiens_plugin.jobs import announce_plan
from sapiens_plugin.jobs.read_config import load_config
from sapiens_plugin.workbench.planning.cards import get_card
from sapiens_plugin.workbench.report.work_dir import read_plan


def leave_plan(cfg, work_dir):
    return announce_plan.leave_plan(cfg, work_dir, train=149_813, val=6_352)


@pytest.fixture
def on(monkeypatch):
    """Take a card for this machine."""
    return lambda card: monkeypatch.setattr(
        announce_plan, 'probe_machine', lambda: card
    )


def test_what_is_told_is_what_is_kept(repo, tmp_path, on):
    on(get_card('gtx1650-maxq'))
    cfg = load_config(repo / 'configs' / 'sapiens1b_gtx1650_week.py')
    said = leave_plan(cfg, tmp_path / 'run')
    kept = read_plan(tmp_path / 'run')
    assert f'{kept["total_hours"]:,.0f} h in all' in said
    assert f'{kept["floor_hours"]:,.0f} h by arithmetic' in said
    assert f'{kept["vram_peak_mib"]:,} of 3,937 MiB' in said
    assert 'NOT FIT' not in said
    assert f'{kept["host_ram_gib"]:.1f} GiB of host' in said


def test_a_job_too_large_for_the_card_is_told(repo, tmp_path, on):
    on(replace(get_card('gtx1650-maxq'), vram_mib=2000))
    cfg = load_config(repo / 'configs' / 'sapiens1b_gtx1650_week.py')
    assert 'WHICH DOES NOT FIT' in leave_plan(cfg, tmp_path)


def test_this_machine_is_measured(demo_config, tmp_path):
    said = leave_plan(demo_config, tmp_path)
    assert (
        'measured now'
        in json.loads((tmp_path / 'plan.json').read_text())['card_source']
    )
    assert 'on CPU' in said or 'MiB of the GPU' in said


def test_a_job_without_a_plan_goes_on(demo_config, tmp_path):
    demo_config.model.backbone.type = 'mmpose.ResNet'
    said = leave_plan(demo_config, tmp_path)
    assert 'There is no plan for this job' in said and 'ResNet' in said
    assert not list(tmp_path.iterdir())


def test_a_plan_that_cannot_be_kept_is_told_all_the_same(demo_config, tmp_path, on):
    on(get_card('rtx3060'))
    (tmp_path / 'plan.json').mkdir()
    said = leave_plan(demo_config, tmp_path)
    assert 'in all' in said and 'could not be written' in said


def test_a_disk_too_small_for_the_checkpoints_is_told(demo_config, tmp_path, on):
    on(get_card('rtx3060'))
    assert 'FREE' not in leave_plan(demo_config, tmp_path / 'run')
    demo_config.default_hooks.checkpoint.max_keep_by_time = 10**9
    said = leave_plan(demo_config, tmp_path / 'run')
    assert f'ON THE DISK OF {tmp_path / "run"} ARE ONLY ' in said


def test_a_plan_reads_no_data_and_draws_no_random_numbers(demo_config, tmp_path):
    for loader in (demo_config.train_dataloader, demo_config.val_dataloader):
        loader.dataset.data_root = str(tmp_path / 'nowhere')
    demo_config.test_dataloader.dataset.data_root = str(tmp_path / 'nowhere')
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    assert 'in all' in leave_plan(demo_config, tmp_path)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2][1])
    assert read_plan(tmp_path)['test_persons'] == 6_352  # as in its validations
