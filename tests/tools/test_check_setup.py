"""The command that looks at the setup, in processes of its own."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpose.registry import MODELS

REPO = Path(__file__).resolve().parents[2]
TOOL = REPO / 'tools' / 'check_setup.py'


def call(folder, *arguments, tool=TOOL, python=(sys.executable,), **environment):
    return subprocess.run(
        [*python, str(tool), *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        encoding='utf-8',
        timeout=120,
        env=os.environ | {'PYTHONIOENCODING': 'utf-8', 'PATH': ''} | environment,
    )


@pytest.fixture
def tool(monkeypatch, capsys, tmp_path):
    """The command in this process: its exit code, what it said, and its errors."""
    monkeypatch.syspath_prepend(REPO / 'tools')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('PATH', '')
    module = importlib.import_module('check_setup')

    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', ['check_setup.py', *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            module.run_command('tools/check_setup.py', module.main)
        return exit_.value.code, *capsys.readouterr()

    run.module = module
    return run


@pytest.fixture
def config(demo, tmp_path):
    """The demo's job on data of its own, in a folder of its own."""
    root = shutil.copytree(demo.root, tmp_path / 'data')
    dataset = dict(dataset=dict(data_root=str(root)))
    weights = dict(checkpoint=str(root / demo.weights.name))
    path = tmp_path / 'job.py'
    path.write_text(
        f'_base_ = {str(REPO / "configs" / "sapiens_tiny_demo.py")!r}\n'
        f'model = dict(backbone=dict(init_cfg={weights}))\n'
        + ''.join(
            f'{split}_dataloader = {dataset}\n' for split in ('train', 'val', 'test')
        ),
        encoding='utf-8',
    )
    return path


def test_the_demo_is_ready_without_a_gpu(config, tmp_path):
    before = sorted(tmp_path.rglob('*'))
    done = call(tmp_path, config, '--json', COCO_ROOT='coco')
    assert (done.returncode, done.stderr) == (0, '')
    found = json.loads(done.stdout)
    assert found.keys() == {'ready', 'job', 'next', 'checks', 'seconds'}
    assert found['ready'] and found['job'] == str(config)
    assert 'train.py job.py' in found['next']
    checks = {check['name']: check for check in found['checks']}
    for check in checks.values():
        assert check.keys() == {'group', 'name', 'status', 'detail', 'mend'}
        assert check['status'] in ('ok', 'warn')
    assert {'Python', 'packages', 'GPU', 'PyTorch', 'weights', 'disk'} <= checks.keys()
    assert checks['train images']['detail'].startswith('all 24 in data')
    assert sorted(tmp_path.rglob('*')) == before  # nothing is made


def test_what_is_missing_is_listed_with_its_command(config, tmp_path):
    (tmp_path / 'data' / 'sapiens_tiny_torchscript.pt2').unlink()
    victim = min((tmp_path / 'data' / 'images' / 'train').iterdir())
    victim.unlink()
    done = call(tmp_path, config)
    assert (done.returncode, done.stderr) == (1, '')
    assert '✘ weights ' in done.stdout and '✔ val images ' in done.stdout
    assert f'1 of 24 not in {Path("data", "images", "train")}: {victim.name}' in (
        done.stdout
    )
    *_, last = done.stdout.splitlines()
    assert last.startswith('Not ready: 2 things to mend. First: ')
    assert last.endswith('-m sapiens_plugin.workbench.demo.make_demo data')


def test_home_is_looked_at(config, tool, monkeypatch, tmp_path):
    for name in ('HOME', 'USERPROFILE'):  # the latter on Windows
        monkeypatch.setenv(name, str(tmp_path))
    text = config.read_text('utf-8').replace(str(tmp_path / 'data'), '~/data')
    config.write_text(text, encoding='utf-8')
    code, said, _ = tool('~/job.py', '--cfg-options', 'work_dir=~/run')
    assert code == 0 and '~' not in said


def test_options_change_the_job(config, tool):
    code, said, _ = tool(config, '--cfg-options', 'model.backbone.arch=sapiens_1b')
    assert code == 1
    assert 'holds a ViT of 128 dims' in said


def test_settings_that_disagree_are_failures(config, tool):
    options = ('model.head.out_channels=6', 'model.head.decoder.type=MSRAHeatmap')
    code, said, _ = tool(config, '--cfg-options', *options)
    assert code == 1 and 'out_channels is 6, and' in said
    assert said.count('✘ settings') > 2 and '✔ settings' not in said


def test_the_head_of_a_checkpoint_is_compared(config, tool, tmp_path):
    code, said, _ = tool(config)
    assert '✔ settings' in said
    cfg = Config.fromfile(config)
    init_default_scope('mmpose')
    head = MODELS.build(dict(cfg.model.head, out_channels=6))
    state = head.state_dict()
    path = tmp_path / 'other.pth'
    torch.save({f'head.{name}': value for name, value in state.items()}, path)
    code, said, _ = tool(config, '--cfg-options', f'load_from={path}')
    assert code == 1
    assert '✘ settings' in said and 'is (6,' in said and '(17,' in said


def test_schedules_that_do_not_fit_are_warnings(config, tool):
    code, said, _ = tool(config, '--cfg-options', 'train_cfg.max_epochs=50')
    assert code == 0 and '! schedules' in said and '✔ settings' in said
    assert 'The last 37 of 50 epochs' in said


WEEK = REPO / 'configs' / 'sapiens1b_gtx1650_week.py'


def test_a_budget_that_is_too_small_is_found_without_a_gpu(tool):
    options = ('model.vram_budget=500', 'model.micro_batch=2')
    code, said, _ = tool(WEEK, '--cfg-options', *options)
    assert code == 1
    (at,) = (n for n, line in enumerate(said.splitlines()) if '✘ GPU memory' in line)
    line, mend = said.splitlines()[at : at + 2]
    least = re.search('needs ([0-9,]+)', line)[1].replace(',', '')
    assert 500 < int(least) < 1200
    assert mend.endswith(f'--cfg-options model.micro_batch=2 model.vram_budget={least}')
    budget = f'model.vram_budget={least}'
    assert '✔ GPU memory' in tool(WEEK, '--cfg-options', budget)[1]


def test_a_job_that_cannot_be_planned_is_a_failure(tool):
    _, said, _ = tool(WEEK, '--cfg-options', 'model.head.type=NoSuchHead')
    assert '✘ GPU memory' in said and 'NoSuchHead' in said


def test_a_number_that_cannot_be_is_told_alone(tool):
    found = tool(WEEK, '--cfg-options', 'train_dataloader.batch_size=0')
    assert found[:2] == (2, '')
    assert 'train_dataloader.batch_size=0 should' in found[2]


def test_nothing_is_looked_at_with_packages_that_do_not_start(
    config, tool, monkeypatch
):
    setup_packages = tool.module.setup_packages
    monkeypatch.setattr(setup_packages, '_COMPILED', {'torch': 'no_such_module'})
    code, said, _ = tool(config)
    assert code == 1
    assert '✘ torch ' in said and '! all else ' in said and 'GPU' not in said
    monkeypatch.setattr(setup_packages, 'is_complete', lambda root: False)
    assert '✘ torch ' not in tool(config)[1]


def test_without_a_config_the_machine_is_looked_at(tmp_path):
    done = call(tmp_path, PYTHONIOENCODING='ascii')
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout.isascii()
    assert 'ok Python' in done.stdout and 'weights' not in done.stdout
    assert done.stdout.splitlines()[-1].endswith('quickstart.py')


def test_a_missing_config_exits_with_2(tmp_path):
    done = call(tmp_path, 'configs/no.py')
    assert (done.returncode, done.stdout) == (2, '')
    assert 'tools/check_setup.py: The config configs/no.py does not exist' in (
        done.stderr.replace(os.sep, '/')
    )


@pytest.mark.parametrize(
    'text, message',
    [
        ('model = dict(', 'cannot be read as a config: SyntaxError'),
        ('model = unknown', 'cannot be read as a config: NameError'),
        ("_base_ = 'no.py'", 'cannot be read as a config'),
        ('x = 1', 'is not a job for a Sapiens'),
    ],
)
def test_no_config_exits_with_2(text, message, tool, tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(text, encoding='utf-8')
    code, said, errors = tool(path)
    assert (code, said) == (2, '')
    assert f'tools/check_setup.py: {path}' in errors and message in errors


@pytest.mark.parametrize('option', [(), ('--json',)])
def test_where_nothing_is_installed_it_says_so(option, tmp_path):
    tools = shutil.copytree(REPO / 'tools', tmp_path / 'tools')
    python = (sys.executable, '-S')  # without what is installed
    tool = tools / 'check_setup.py'
    done = call(tmp_path, *option, tool=tool, python=python, PYTHONPATH='')
    assert (done.returncode, done.stderr) == (1, '')
    assert 'bootstrap.py' in done.stdout and 'not installed' in done.stdout
    if option:
        found = json.loads(done.stdout)
        assert not found['ready']
        assert found['checks'][0].keys() == {
            *('group', 'name', 'status', 'detail', 'mend')
        }
    assert not (tmp_path / '.venv').exists()


def test_where_no_python_will_do_it_says_how_to_get_one(tmp_path):
    tools = shutil.copytree(REPO / 'tools', tmp_path / 'tools')
    bootstrap = (tools / 'bootstrap.py').read_text('utf-8')
    newer = bootstrap.replace(
        "PYTHONS = ('3.13', '3.12', '3.11')", "PYTHONS = ('3.99',)"
    )
    (tools / 'bootstrap.py').write_text(newer, encoding='utf-8')
    python = (sys.executable, '-S')
    done = call(tmp_path, tool=tools / 'check_setup.py', python=python, PYTHONPATH='')
    assert (done.returncode, done.stderr) == (1, '')
    said, mend = done.stdout.split(' First: ')
    assert said.startswith('Not ready: This needs Python 3.99. Here is only 3.')
    assert 'install' in mend and 'bootstrap' not in mend


def test_the_help_says_all(tmp_path):
    done = call(tmp_path, '--help')
    assert done.returncode == 0
    for words in ('CONFIG', '--json', '--cfg-options', 'examples:', 'exits with 0'):
        assert words in done.stdout
