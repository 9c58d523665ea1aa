import json
import shlex
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from sapiens_plugin.workbench.job.reader import read_job
from sapiens_plugin.workbench.setup_check.setup_report import (
    Check,
    Commands,
    Report,
    shorten,
)

GOOD = Check('Python', 'ok', '3.11.9')
REMARK = Check('GPU', 'warn', 'none found')
BAD = Check('weights', 'fail', 'w.pth is missing', 'fetch them')
WORSE = Check('images', 'fail', 'none', 'fetch those')


def report(*groups):
    return Report(dict(groups), 'job.py', 'train it')


def test_all_is_well():
    found = report(('Machine', [GOOD]))
    assert found.is_ready
    assert list(found.lines()) == [
        'Machine',
        '  ✔ Python  3.11.9',
        '',
        'Ready. Next: train it',
    ]


def test_a_remark_keeps_nothing_from_running():
    found = report(('Machine', [GOOD, REMARK]))
    assert found.is_ready
    assert list(found.lines())[-1] == 'Ready. Mind the line with a !. Next: train it'
    two = report(('Machine', [REMARK, REMARK]))
    assert list(two.lines())[-1] == 'Ready. Mind the 2 lines with a !. Next: train it'


def test_what_is_wrong_comes_with_its_command_and_the_first_one_last():
    found = report(('Machine', [GOOD, REMARK]), ('Job', [BAD, WORSE]))
    assert not found.is_ready
    assert list(found.lines()) == [
        'Machine',
        '  ✔ Python   3.11.9',
        '  ! GPU      none found',
        '',
        'Job',
        '  ✘ weights  w.pth is missing',
        '             → fetch them',
        '  ✘ images   none',
        '             → fetch those',
        '',
        'Not ready: 2 things to mend. First: fetch them',
    ]
    one = report(('Job', [BAD]))
    assert list(one.lines())[-1] == 'Not ready: one thing to mend. First: fetch them'


def test_what_mends_several_is_told_once():
    lines = list(report(('Job', [BAD, BAD, WORSE])).lines())
    assert [line.strip() for line in lines if '→' in line] == [
        '→ fetch them',
        '→ fetch those',
    ]


def test_plain_marks_are_ascii_and_aligned():
    lines = list(report(('Job', [GOOD, BAD])).lines(plain=True))
    assert '\n'.join(lines).isascii()
    assert lines[1:3] == ['  ok Python   3.11.9', '  x  weights  w.pth is missing']
    assert lines[3].index('->') == lines[2].index('w.pth')


def test_colour_is_around_the_mark_alone():
    lines = list(report(('Job', [BAD])).lines(colour=True))
    assert lines[1] == '  \x1b[31m✘\x1b[0m weights  w.pth is missing'


def test_a_program_gets_every_check():
    found = report(('Machine', [GOOD]), ('Job', [BAD])).as_dict()
    assert json.loads(json.dumps(found)) == {
        'ready': False,
        'job': 'job.py',
        'next': 'fetch them',
        'checks': [
            dict(
                group='Machine', name='Python', status='ok', detail='3.11.9', mend=None
            ),
            dict(
                group='Job',
                name='weights',
                status='fail',
                detail='w.pth is missing',
                mend='fetch them',
            ),
        ],
    }


@pytest.mark.skipif(sys.platform == 'win32', reason='quoting as in a POSIX shell')
def test_commands_can_be_typed_where_one_is(tmp_path, monkeypatch):
    root = tmp_path / 'check out'
    root.mkdir()
    commands = Commands(root, python=str(root / '.venv' / 'bin' / 'python'))
    monkeypatch.chdir(root)
    assert commands.tool('a.py', 'x y', root / 'b') == (
        ".venv/bin/python tools/a.py 'x y' b"
    )
    assert commands.pip('numpy<2') == ".venv/bin/python -m pip install 'numpy<2'"
    monkeypatch.chdir(tmp_path)
    assert shlex.split(commands.tool('a.py'))[1] == 'check out/tools/a.py'
    elsewhere = tmp_path / 'elsewhere'
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert shlex.split(commands.tool('a.py'))[1] == str(root / 'tools' / 'a.py')


@pytest.mark.skipif(sys.platform == 'win32', reason='links need a right of their own')
def test_paths_are_shortened_without_following_links(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'real').mkdir()
    (tmp_path / 'link').symlink_to(tmp_path / 'real')
    assert shorten(tmp_path / 'link' / '..' / 'link' / 'a') == shorten('link/a')
    assert shorten('link/a').startswith('link')


def test_a_command_keeps_the_changes_but_those_it_replaces():
    commands = Commands(Path('checkout'), python='python')
    path = Path(__file__).parents[3] / 'configs' / 'sapiens_tiny_demo.py'
    cfg = Config.fromfile(path, import_custom_modules=False).to_dict()
    assert commands.train(read_job(cfg, path)).endswith(path.name)
    job = read_job(cfg, path, ['model.vram_budget=500', 'model.micro_batch=1'])
    mend = commands.train(job, 'model.vram_budget=900')
    assert mend.endswith(
        f'{path.name} --cfg-options model.micro_batch=1 model.vram_budget=900'
    )
    elsewhere = commands.train(job, work_dir='DIR')
    assert elsewhere.endswith(
        '--work-dir DIR --cfg-options model.vram_budget=500 model.micro_batch=1'
    )
