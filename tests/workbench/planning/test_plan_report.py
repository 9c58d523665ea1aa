"""What people and programs are given."""

import json
from dataclasses import replace

import pytest

from sapiens_plugin.workbench.planning.alternatives import Alternative
from sapiens_plugin.workbench.planning.cards import get_card
from sapiens_plugin.workbench.planning.limits import Limits
from sapiens_plugin.workbench.planning.plan import make_plan
from sapiens_plugin.workbench.planning.plan_report import as_dict, as_text


@pytest.fixture
def planned(shipped):
    planned = shipped('sapiens1b_gtx1650')
    card = get_card('gtx1650-maxq')
    plan = make_plan(planned.job, card, planned.measure)
    other = make_plan(planned.job.changed(max_epochs=11), card, planned.measure)
    return plan, [
        Alternative('11 epochs', 'one of ' + 'very ' * 40 + 'many', other),
        Alternative('the same', 'nothing', plan),
    ]


def test_json_has_the_promised_keys(planned):
    plan, alternatives = planned
    found = json.loads(json.dumps(as_dict(plan, alternatives)))
    assert found.keys() >= {
        'vram_peak_mib', 'host_ram_gib', 'disk_gib', 'phases', 'validation_hours',
        'total_hours', 'floor_hours', 'alternatives',
    }  # fmt: skip
    for phase in found['phases']:
        assert phase.keys() >= {
            'name', 'epochs', 'tflop_per_step', 'seconds_per_step', 'hours_per_epoch',
            'hours',
        }  # fmt: skip
        assert phase['vram_parts_mib'].keys() == {
            'context', 'weights', 'gradients', 'boundaries', 'working_set', 'workspace'
        }  # fmt: skip
        parts = sum(phase['vram_parts_mib'].values())
        assert parts <= phase['vram_peak_mib'] < parts + 1
        hours = phase['seconds_per_step'] * phase['steps_per_epoch'] / 3600
        assert phase['hours_per_epoch'] == pytest.approx(hours)
        assert phase['hours'] == pytest.approx(hours * phase['epochs'])
    assert found['vram_peak_mib'] == max(p['vram_peak_mib'] for p in found['phases'])
    assert found['vram_peak_mib'] <= 3937 and found['fits']
    hours = sum(phase['hours'] for phase in found['phases'])
    assert found['total_hours'] == pytest.approx(hours + found['validation_hours'])
    assert found['floor_hours'] <= found['total_hours']
    for unit in ('host_ram', 'disk'):
        parts = found[f'{unit}_parts_gib'].values()
        assert sum(parts) == pytest.approx(found[f'{unit}_gib'])
    alternative, same = found['alternatives']
    assert alternative['name'] == '11 epochs' and alternative['fits']
    assert alternative['helps'] and not same['helps']
    assert alternative['total_hours'] < found['total_hours']
    assert found['computed_not_measured'] is True
    assert found['job'].items() >= dict(
        arch='sapiens_1b', img_size=[384, 288], batch=32, micro_batch=2, max_epochs=110,
        warmup_epochs=10, trains='everything', streamed=True, vram_budget=3000,
    ).items()  # fmt: skip
    assert found['limits'] == dict(hours=None, vram_mib=None)
    assert found['changed'] == []


def test_the_text_is_for_80_columns_and_says_what_it_is(planned):
    plan, alternatives = planned
    text = as_text(plan, alternatives)
    assert max(map(len, text.splitlines())) <= 80
    assert 'computed, not measured' in text.splitlines()[0]
    for part in ('head alone', 'everything', 'validation', 'at least, by arithmetic',
                 'of 3,937: fits', 'context 450', 'Host memory', 'Disk',
                 '11 epochs', 'very very', 'assumed',
                 'sapiens_1b, 384×288, 32 images a step (2 at a time), 10 + 100',
                 'Of no help here: the same'):  # fmt: skip
        assert part in text, part


def test_what_does_not_fit_is_marked(shipped):
    planned = shipped('sapiens1b_a100')
    card = get_card('gtx1650')
    job = planned.job.changed(precision='float32')
    plan = make_plan(job, card, planned.measure)
    text = as_text(plan, [Alternative('same', 'all', plan)])
    assert 'DOES NOT FIT' in text and 'What does not fit either: same' in text
    assert 'Most of it is ' in text and ' moments 8,8' in text
    assert 'configs/sapiens1b_gtx1650.py.' in text
    assert not as_dict(plan, [])['fits']


def test_a_search_says_what_it_searched_and_found(shipped):
    planned = shipped('sapiens1b_gtx1650')
    limits = Limits(hours=176, vram_mib=8192)
    card = get_card('gtx1650-maxq').limited(limits.vram_mib)
    job = planned.job.changed(img_size=(256, 192), max_epochs=20)
    plan = make_plan(job, card, planned.measure)
    text = ' '.join(as_text(plan, [], limits=limits, given=planned.job).split())
    assert text.startswith('found near sapiens1b_gtx1650 on gtx1650-maxq: computed')
    assert 'Searched within 176 h and 8,192 MiB.' in text
    assert 'input 256×192, not 384×288; epochs 10 + 10, not 10 + 100.' in text
    assert 'of 3,937, less than --vram 8,192: fits' in text
    found = as_dict(plan, [], limits=limits, given=planned.job)
    assert found['limits'] == dict(hours=176, vram_mib=8192)
    assert len(found['changed']) == 2
    card = card.limited(3600)
    plan = make_plan(job, card, planned.measure)
    text = as_text(plan, [], limits=Limits(vram_mib=3600), given=planned.job)
    assert 'of 3,600 (--vram): fits' in text


def test_a_plan_for_the_cpu_says_so_first(shipped):
    planned = shipped('sapiens_tiny_demo')
    card = replace(get_card('gtx1650'), name='cpu', vram_mib=None)
    plan = make_plan(planned.job, card, planned.measure)
    text = as_text(plan, [])
    assert text.startswith('No NVIDIA GPU can be used here')
    assert '--gpu gtx1650' in text.splitlines()[1] and 'context' not in text
    assert 'Memory to compute in: 1' in text
