from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sapiens_plugin.errors import InputError
from sapiens_plugin.jobs.read_config import load_config, planned_job, stage_measurer
from sapiens_plugin.workbench.job.job import Persons
from sapiens_plugin.workbench.planning.cards import get_card
from sapiens_plugin.workbench.planning.footprint import CONTEXT
from sapiens_plugin.workbench.planning.plan import make_plan
from sapiens_plugin.workbench.setup_check.setup_memory import least_memory

CONFIGS = Path(__file__).parents[3] / 'configs'
PERSONS = Persons(train=100, val=10, test=10)


def load(name):
    cfg = load_config(CONFIGS / f'{name}.py')
    return planned_job(cfg, PERSONS), stage_measurer(cfg)


def test_a_streamed_job_needs_the_smallest_budget_that_can_be_planned():
    job, measure = load('sapiens1b_gtx1650_week')
    card = get_card('gtx1650-maxq')
    dtype = card.precision(job.precision).dtype
    least = least_memory(job, measure, dtype, card.capability)
    assert 794 < least < 1200  # the head alone needs 794

    def plan(budget):
        streaming = replace(job.streaming, vram_budget=budget)
        return make_plan(job.changed(streaming=streaming), card, measure)

    assert plan(least).vram_peak <= CONTEXT + (least << 20)
    with pytest.raises(InputError, match='too small'):
        plan(least - 1)


def test_an_unstreamed_job_needs_all_that_is_planned():
    job, measure = load('sapiens0.3b_coco_1024x768')
    plan = make_plan(job, get_card('gtx1650-maxq'), measure)
    least = least_memory(job, measure, plan.precision.dtype, plan.card.capability)
    assert least - 1 < (plan.vram_peak - CONTEXT) / 2**20 <= least
    assert least_memory(job, measure, torch.float16) < least


def test_phases_without_epochs_need_nothing():
    job, measure = load('sapiens0.3b_coco_1024x768')
    alone = job.changed(warmup_epochs=9, max_epochs=2)
    assert least_memory(alone, measure, torch.float32) < 5000
