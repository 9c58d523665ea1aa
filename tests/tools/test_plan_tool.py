"""The command that plans."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from sapiens_plugin.errors import InputError

REPO = Path(__file__).resolve().parents[2]
TOOL = REPO / 'tools' / 'plan.py'
DEMO = REPO / 'configs' / 'sapiens_tiny_demo.py'


@pytest.fixture
def plan(monkeypatch, capsys):
    """Runs the command in this process; returns what it prints."""
    here = SimpleNamespace(enter_environment=lambda: None)
    monkeypatch.setitem(sys.modules, 'bootstrap', here)
    spec = importlib.util.spec_from_file_location('plan_tool', TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)

    def plan(*arguments) -> str:
        monkeypatch.setattr(sys, 'argv', [str(TOOL), *map(str, arguments)])
        capsys.readouterr()
        plan.code = tool.main()
        return capsys.readouterr().out

    return plan


def test_a_plan_for_this_machine(plan, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    text = plan(DEMO)
    assert text.startswith('No NVIDIA GPU can be used here')
    assert 'sapiens_tiny_demo on cpu: computed, not measured' in text
    assert plan.code == 0
    assert 'measured now' in text
    assert 'at least, by arithmetic' in text


def test_a_search_writes_a_config_that_plans_alike(plan, tmp_path):
    arguments = ('--gpu', 'gtx1650', '--json')
    before = json.loads(plan(DEMO, *arguments))
    limits = ('--within', f'{0.8 * before["total_hours"]:.6f}h', '--vram', '3937MiB')
    path = tmp_path / 'found.py'
    found = json.loads(plan(DEMO, *arguments, *limits, '--write', path))
    assert found['total_hours'] <= 0.8 * before['total_hours']
    assert found['vram_peak_mib'] <= 3937
    again = json.loads(plan(path, *arguments))
    for key in (
        *('vram_peak_mib', 'host_ram_gib', 'disk_gib', 'total_hours', 'floor_hours'),
        'job',
    ):
        assert again[key] == found[key]
    assert found['changed'] and not again['changed']
    other = tmp_path / 'other.py'
    text = plan(DEMO, '--gpu', 'gtx1650', *limits, '--write', other)
    assert f'Next: python3 tools/check_setup.py {other}' in text


def test_a_job_that_does_not_fit_is_exit_code_1(plan):
    config = REPO / 'configs' / 'sapiens1b_coco_1024x768.py'
    assert 'DOES NOT FIT' in plan(config, '--gpu', 'gtx1650')
    assert plan.code == 1


def test_wrong_input(plan, tmp_path):
    empty = tmp_path / 'classifier.py'
    empty.write_text("model = dict(type='Classifier')\n", encoding='utf-8')
    for arguments, says in (
        ([DEMO, '--within', 'soon'], '--within soon is not a time'),
        ([DEMO, '--within', '7'], '--within 7 is not a time'),
        ([DEMO, '--vram', '0GiB'], '--vram 0GiB is not a size'),
        ([DEMO, '--write', 'x.py'], '--write needs a limit'),
        ([DEMO, '--within', '1w', '--write', DEMO], 'is there already'),
        ([empty, '--gpu', 'a100'], 'not a job for a Sapiens'),
        ([tmp_path / 'no.py'], 'no.py does not exist'),
    ):
        with pytest.raises(InputError, match=says):
            plan(*arguments)


def test_wrong_input_exits_with_2(tmp_path):
    done = subprocess.run(
        [sys.executable, str(TOOL), str(DEMO), '--gpu', 'gtx9000'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        encoding='utf-8',
        timeout=120,
        env={**os.environ, 'PYTHONIOENCODING': 'utf-8'},
    )
    assert done.returncode == 2
    assert 'gtx9000 is not in the table' in done.stderr
    assert 'Traceback' not in done.stderr and done.stdout == ''
