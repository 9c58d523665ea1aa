import re

import pytest

from sapiens_plugin.workbench.report.charts import (
    Mark,
    Series,
    bar,
    line_chart,
    shown,
    thinned,
)
from sapiens_plugin.workbench.report.markup import Markup, element


def draw(*points: tuple[float, float], **options) -> str:
    labels = dict(key='k', title='t', x_label='epoch', y_label='loss')
    return line_chart([Series('loss', points)], **labels, **options)


def ends(chart: str) -> list[tuple[float, float]]:
    (path,) = re.findall(r'<path d="M([^"]+)"', chart)
    return [tuple(map(float, place.split(' '))) for place in path.split('L')]


def y_ticks(chart: str) -> list[str]:
    return re.findall(r'class="y">([^<]+)<', chart)


def test_points_lie_where_their_values_say():
    (x0, y0), (x1, y1), (x2, y2) = ends(draw((0, 0), (1, 5), (2, 10), y_range=(0, 10)))
    assert (x1 - x0, y1 - y2) == pytest.approx((x2 - x1, y0 - y1), abs=0.11)
    assert x0 < x2 and y2 < y0


def test_on_a_log_scale_equal_ratios_are_equal_distances():
    chart = draw((1, 0.01), (2, 0.1), (3, 1.0), log=True)
    heights = [y for _, y in ends(chart)]
    step = heights[0] - heights[1]
    assert step == pytest.approx(heights[1] - heights[2], abs=0.11)
    assert {'0.01', '0.1', '1'} <= set(y_ticks(chart))


def test_a_value_that_has_no_logarithm_makes_the_scale_linear():
    assert y_ticks(draw((1, 0.0), (2, 1.0), log=True))[0] == '0'


@pytest.mark.parametrize(
    'points', [[(1, 2.0)], [(0, 0.0)], [(1, 2.0), (2, 2.0)], [(1, -3.0), (2, 5e-9)]]
)
@pytest.mark.parametrize('log', [False, True])
def test_few_and_equal_values_are_drawn(points, log):
    chart = draw(*points, log=log)
    assert len(ends(chart)) == len(points)
    assert len(y_ticks(chart)) >= 1
    assert 'nan' not in chart and 'inf' not in chart


def test_values_that_are_not_finite_are_left_out():
    nan, inf = float('nan'), float('inf')
    assert len(ends(draw((1, 1.0), (2, nan), (3, inf), (4, 2.0)))) == 2
    assert 'No finite value' in draw((1, nan))


def test_marks_stand_at_their_places():
    chart = draw((0, 1), (10, 2), marks=[Mark(5, 'resumed', 'resume')])
    (at,) = re.findall(r'<line x1="([\d.]+)" x2="\1"', chart)
    first, last = ends(chart)
    assert float(at) == pytest.approx((first[0] + last[0]) / 2, abs=0.11)
    assert '<title>resumed</title>' in chart


def test_a_mark_beyond_the_end_is_left_out():
    assert 'later' not in draw((0, 1), (1, 2), marks=[Mark(3, 'later', 'phase')])


def test_many_points_are_averaged_to_few():
    points = [(float(n), float(n % 2)) for n in range(6000)]
    few = thinned(points)
    assert len(few) == 600
    assert few[0] == (4.5, 0.5)


@pytest.mark.parametrize(
    'value, text',
    [
        (0, '0'),
        (0.25, '0.25'),
        (0.1234567, '0.123'),
        (99.96, '100'),
        (999.7, '1,000'),
        (12345.6, '12,346'),
        (5e-4, '5e-4'),
        (6.4e-7, '6.4e-7'),
        (2.5e9, '2.5e9'),
        (-3.0, '-3'),
    ],
)
def test_numbers_are_short(value, text):
    assert shown(value) == text


def test_bars_are_as_long_as_their_shares():
    assert 'width="25"' in bar(0.25)
    assert 'width="0"' in bar(-1.0)


def test_what_is_no_markup_is_escaped():
    made = element('p', '<b>', Markup('<i></i>'), None, 3, title='"&', class_='x')
    assert made == '<p title="&quot;&amp;" class="x">&lt;b&gt;<i></i>3</p>'
