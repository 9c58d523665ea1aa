import io
import logging
import re
import sys

import pytest
from rich.console import Console

from sapiens_plugin.engine.logging import status_bar
from sapiens_plugin.engine.logging.status_bar import StatusBar


@pytest.fixture
def screen():
    return io.StringIO()


@pytest.fixture
def handler():
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter('%(message)s'))
    return handler


@pytest.fixture
def bar(screen, handler):
    console = Console(file=screen, force_terminal=True, width=80, color_system=None)
    bar = StatusBar([handler, logging.NullHandler()], console=console)
    bar.start()
    yield bar
    bar.stop()


def log(handler, message):
    handler.handle(logging.LogRecord('', logging.INFO, '', 0, message, None, None))


def show(bar, done):
    bar.show(
        'head alone 1/110', done=done, total=4682, note='left 10 d 3 h, job ~351 d'
    )


def test_the_bar_stays_below_the_log(bar, screen, handler):
    show(bar, done=17)
    log(handler, 'a line')
    text = re.sub(r'\x1b\[[\d?]*[a-zA-Z]', '', screen.getvalue())
    drawn = [line.split() for line in re.split('[\r\n]+', text)]
    last = 'head alone 1/110 17/4682 left 10 d 3 h, job ~351 d'.split()
    assert [line for line in drawn if line] == [last, ['a', 'line'], last]


def test_long_lines_of_the_log_are_not_broken(bar, screen, handler):
    line = 'x' * 300
    log(handler, line)
    assert line in screen.getvalue()


def test_afterwards_the_terminal_is_as_before(bar, screen, handler):
    show(bar, done=17)
    assert handler.stream is not sys.stdout
    bar.stop()
    assert handler.stream is sys.stdout
    text = screen.getvalue()
    assert text.count('\x1b[?25l') == text.count('\x1b[?25h') == 1  # the cursor
    assert text.endswith('\x1b[2K')  # the bar's line is erased


def test_it_is_drawn_twice_a_second_at_most(bar, monkeypatch):
    now = 100.0
    monkeypatch.setattr(status_bar, 'monotonic', lambda: now)
    assert bar.is_due
    show(bar, done=17)
    now += 0.4
    assert not bar.is_due
    now += 0.2
    assert bar.is_due
