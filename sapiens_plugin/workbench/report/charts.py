"""Line charts as SVG that takes its colours from the page around it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .markup import Markup, element

Point = tuple[float, float]

# Small, so that the text is still read where a telephone shrinks the picture.
_WIDTH, _HEIGHT = 420, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 24, 42
_MOST_POINTS = 600


@dataclass(frozen=True)
class Series:
    """A line of a chart.

    Attributes:
        name: What the line is, for the legend.
        points: Its points, by rising x.
        style: ``'main'``, ``'second'`` or ``'third'``.
    """

    name: str
    points: Sequence[Point]
    style: str = 'main'


@dataclass(frozen=True)
class Mark:
    """A vertical line across a chart, such as where a run was resumed."""

    x: float
    name: str
    style: str  # 'phase' or 'resume'


def line_chart(
    series: Sequence[Series],
    *,
    key: str,
    title: str,
    x_label: str,
    y_label: str,
    marks: Sequence[Mark] = (),
    log: bool = False,
    y_range: tuple[float, float] | None = None,
) -> Markup:
    """Draw lines over an x axis that starts at 0.

    Args:
        series: At least one, with at least one point.
        key: Names the chart in the page, for its ``id``.
        title: What is seen, for those who do not see it.
        x_label: Of the axis, with its unit.
        y_label: Of the axis, with its unit.
        marks: Vertical lines.
        log: Powers of ten at even distances, if no value forbids it.
        y_range: Ends of the y axis; otherwise from the values.
    """
    drawn = [Series(s.name, _finite(s.points), s.style) for s in series]
    values = [y for line in drawn for _, y in line.points]
    if not values:
        return element('p', 'No finite value was logged.', class_='missing')
    log = log and min(values) > 0
    low, high = y_range or _range(values, log=log)
    last = max(x for line in drawn for x, _ in line.points) or 1.0

    def across(x: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * x / last

    def up(y: float) -> float:
        if log:
            y, bottom, top = math.log(y), math.log(low), math.log(high)
        else:
            bottom, top = low, high
        return (
            _HEIGHT
            - _BOTTOM
            - (_HEIGHT - _TOP - _BOTTOM) * (y - bottom) / (top - bottom)
        )

    parts = [element('title', title, id=f'{key}-title')]
    for value in _log_ticks(low, high) if log else _ticks(low, high):
        y = _number(up(value))
        parts += [
            element('line', class_='grid', x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y),
            element('text', shown(value), x=_LEFT - 6, y=y, dy='0.32em', class_='y'),
        ]
    for value in _ticks(0, last):
        x = _number(across(value))
        parts.append(
            element('text', shown(value), x=x, y=_HEIGHT - _BOTTOM + 16, class_='x')
        )
    ground = _HEIGHT - _BOTTOM
    parts.append(
        element(
            'line', class_='axis', x1=_LEFT, x2=_WIDTH - _RIGHT, y1=ground, y2=ground
        )
    )
    for mark in marks:
        if not 0 <= mark.x <= last:
            continue
        x = _number(across(mark.x))
        mark_line = element(
            'line', element('title', mark.name), x1=x, x2=x, y1=_TOP, y2=ground
        )
        parts.append(element('g', mark_line, class_=f'mark {mark.style}'))
    for line in reversed(drawn):  # the main one on top
        places = [(across(x), up(y)) for x, y in thinned(line.points)]
        path = 'M' + 'L'.join(f'{_number(x)} {_number(y)}' for x, y in places)
        parts.append(element('path', d=path, class_=f'line {line.style}'))
        if len(line.points) <= 40:
            parts += [
                element(
                    'circle',
                    element('title', f'{line.name}: {shown(y)} at {shown(x)}'),
                    cx=_number(across(x)),
                    cy=_number(up(y)),
                    r=2.5,
                    class_=f'dot {line.style}',
                )
                for x, y in line.points
            ]
    middle = _number((_LEFT + _WIDTH - _RIGHT) / 2)
    parts += [
        element('text', x_label, x=middle, y=_HEIGHT - 6, class_='label x'),
        element('text', y_label, x=0, y=12, class_='label'),
    ]
    return element(
        'svg',
        *parts,
        viewBox=f'0 0 {_WIDTH} {_HEIGHT}',
        role='img',
        aria_labelledby=f'{key}-title',
        class_='chart',
    )


def legend(series: Sequence[Series], marks: Sequence[Mark] = ()) -> Markup:
    """Name the lines of a chart by their look; of each kind of mark the first."""
    entries = [(s.name, f'line {s.style}', 'M0 5H22') for s in series]
    first = {mark.style: mark for mark in reversed(marks)}
    entries += [(m.name, f'mark {m.style}', 'M11 0V10') for m in first.values()]
    return element(
        'p',
        *(
            element(
                'span',
                element(
                    'svg',
                    element('path', d=path, class_=look),
                    viewBox='0 0 22 10',
                    aria_hidden='true',
                ),
                name,
            )
            for name, look, path in entries
        ),
        class_='legend',
    )


def bar(share: float) -> Markup:
    """Draw a bar of that share of its full length, which is 1."""
    width = _number(100 * min(max(share, 0.0), 1.0))
    return element(
        'svg',
        element('rect', width=100, height=10, class_='trough'),
        element('rect', width=width, height=10, class_='bar'),
        viewBox='0 0 100 10',
        preserveAspectRatio='none',
        aria_hidden='true',
        class_='bar',
    )


def shown(value: float) -> str:
    """Return a number in few characters: 12,000 or 0.25 or 5e-4."""
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        mantissa, exponent = f'{value:.2e}'.split('e')
        return f'{float(mantissa):g}e{int(exponent)}'
    if abs(value) >= 100:
        return f'{value:,.0f}'
    return f'{value:.3g}'


def thinned(points: Sequence[Point]) -> list[Point]:
    """Return as many points as can be told apart, each the mean of its neighbours."""
    size = math.ceil(len(points) / _MOST_POINTS)
    if size <= 1:
        return list(points)
    return [
        (sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part))
        for part in (points[i : i + size] for i in range(0, len(points), size))
    ]


def _finite(points: Sequence[Point]) -> list[Point]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _range(values: Sequence[float], *, log: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if log:
        return (low / 1.1, high * 1.1) if low < high else (low / 2, high * 2)
    low = min(low, 0.0)
    return low, (high + 0.05 * (high - low)) if high > low else low + 1.0


def _ticks(low: float, high: float) -> list[float]:
    """Return four to eight round numbers of a range."""
    rough = (high - low) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * n for n in (1, 2, 5, 10) if power * n >= rough)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [n * step for n in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 3), (1, 2, 5)):
        ticks = [d * 10.0**e for e in decades for d in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 4:
            return ticks
    return ticks if len(ticks) >= 2 else _ticks(low, high)


def _number(value: float) -> str:
    return f'{value:.1f}'.removesuffix('.0')
