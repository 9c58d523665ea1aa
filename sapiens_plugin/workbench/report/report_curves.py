"""The section of a report with its curves."""

from collections.abc import Sequence

from .charts import Mark, Series, legend, line_chart, shown
from .markup import Markup, element, join
from .plan_and_run import Phase
from .report_parts import missing, table
from .run_log import RunLog


def curves(log: RunLog, phases: Sequence[Phase]) -> Markup:
    """Draw loss, AP and learning rate over the epochs.

    Args:
        log: Of the run.
        phases: Of the job; where one begins, the curves are marked.
    """
    begun = log.train[-1]['epoch']
    marks = [
        Mark(phase.first - 1, f'{phase.name} trains', 'phase')
        for phase in phases[1:]
        if phase.first <= begun
    ]
    marks += [
        Mark(start.epochs_before, 'resumed', 'resume') for start in log.starts[1:]
    ]
    cells = [_loss(log, marks), _precision(log, marks), _rate(log, marks)]
    if any('coco/AP' in record for record in log.validation):
        cells.append(_validations(log))
    parts = [element('div', *cells, class_='charts')]
    if marks:
        where = ', '.join(f'{m.name} after epoch {m.x:g}' for m in marks)
        parts.append(element('p', f'Vertical lines: {where}.', class_='quiet'))
    return join(*parts)


def _loss(log: RunLog, marks: Sequence[Mark]) -> Markup:
    points = log.train_series('loss')
    if not points:
        return missing('No loss was logged.')
    (start, first), (end, last) = points[0], points[-1]
    return _figure(
        [Series('training loss', points)],
        log,
        marks,
        key='loss',
        y_label='training loss (log scale)',
        title=f'Training loss, from {shown(first)} at epoch {shown(start)} to '
        f'{shown(last)} at epoch {shown(end)}.',
        log_scale=True,
    )


def _precision(log: RunLog, marks: Sequence[Mark]) -> Markup:
    names = {'coco/AP': 'AP', 'coco/AP .5': 'AP at OKS .50', 'coco/AP .75': 'at .75'}
    series = [
        Series(label, points, style)
        for (name, label), style in zip(
            names.items(), ('main', 'second', 'third'), strict=True
        )
        if (points := log.validation_series(name))
    ]
    if not series or series[0].style != 'main':
        return missing('No validation with coco/AP was logged, so there is no curve.')
    epoch, best = max(series[0].points, key=lambda point: point[1])
    return _figure(
        series,
        log,
        marks,
        key='ap',
        y_label='average precision on validation (0 to 1)',
        title=f'Average precision at {len(series[0].points)} validations; the best is '
        f'{best:.3f} after epoch {epoch:g}.',
        y_range=(0.0, 1.0),
    )


def _rate(log: RunLog, marks: Sequence[Mark]) -> Markup:
    names = [name for name in log.train[0] if name.startswith('lr/')]
    if names:
        # From the head, which learns fastest, to the stem.
        names = [names[-1], names[len(names) // 2], names[0]]
    else:
        names = [name for name in ('base_lr', 'lr') if name in log.train[0]]
    series: list[Series] = []
    for name in names:
        points = log.train_series(name)
        if all(points != other.points for other in series):
            style = ('main', 'second', 'third')[len(series)]
            series.append(Series(_rate_name(name), points, style))
    if not series:
        return missing('No learning rate was logged.')
    highest = max(rate for _, rate in series[0].points)
    return _figure(
        series,
        log,
        marks,
        key='rate',
        y_label='learning rate',
        title=f'Learning rate, {shown(highest)} at its highest.',
    )


def _rate_name(name: str) -> str:
    known = {'base_lr': 'base rate', 'lr': 'first group'}
    return known.get(name) or name.removeprefix('lr/').replace('_', ' ')


def _figure(
    series: Sequence[Series],
    log: RunLog,
    marks: Sequence[Mark],
    *,
    key: str,
    title: str,
    y_label: str,
    log_scale: bool = False,
    y_range: tuple[float, float] | None = None,
) -> Markup:
    chart = line_chart(
        series,
        key=key,
        title=title,
        x_label=f'epoch (of {log.epoch_length:,.0f} iterations)',
        y_label=y_label,
        marks=marks,
        log=log_scale,
        y_range=y_range,
    )
    return element('figure', chart, legend(series, marks), element('figcaption', title))


def _validations(log: RunLog) -> Markup:
    columns = ('AP', 'AP .5', 'AP .75', 'AP (M)', 'AP (L)', 'AR')
    rows = [
        (
            f'{record["step"]}',
            *(
                f'{record[f"coco/{name}"]:.3f}' if f'coco/{name}' in record else '–'
                for name in columns
            ),
        )
        for record in log.validation
        if 'coco/AP' in record
    ]
    return table(
        ('Epoch', *columns),
        rows,
        caption='The validations while training, in COCO metrics',
        numbers=True,
    )
