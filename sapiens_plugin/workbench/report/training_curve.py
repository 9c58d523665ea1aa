"""Draws the training curve of a work directory.

``python -m sapiens_plugin.workbench.report.training_curve WORK_DIR`` writes
``training_curve.png`` into it and prints where.
"""

import argparse
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from sapiens_plugin.core.utils.whole_file import whole_file
from sapiens_plugin.workbench.command import run

from .run_log import RunLog, read_run_log

_LOSS_COLOR = '#3b6ea8'
_AP_COLOR = '#c2571a'
_TEXT_COLOR = '#444444'


def draw_training_curve(work_dir: Path) -> Path:
    """Draw loss and validation AP over the epochs.

    Args:
        work_dir (Path): The ``work_dir`` of a training, finished or running.

    Returns:
        Path: The picture, ``work_dir/training_curve.png``.

    Raises:
        InputError: Nothing was logged there, or a log does not parse.
    """
    work_dir = Path(work_dir)
    figure = plot(read_run_log(work_dir), title=work_dir.resolve().name)
    picture = work_dir / 'training_curve.png'
    with whole_file(picture) as file:
        figure.savefig(file, format='png', dpi=150)
    return picture


def plot(log: RunLog, *, title: str) -> Figure:
    """Return a figure of the loss, and below it of the AP once there is one."""
    losses = log.train_series('loss')
    precisions = log.validation_series('coco/AP')
    panels = 2 if precisions else 1
    figure = Figure(figsize=(7, 0.8 + 2.6 * panels), layout='constrained')
    axes = figure.subplots(panels, sharex=True, squeeze=False)[:, 0]
    axes[0].plot(*zip(*losses, strict=True), color=_LOSS_COLOR, linewidth=1.4)
    if all(value > 0 for _, value in losses):
        axes[0].set_yscale('log')
        plain = FuncFormatter(lambda value, _: f'{value:g}')  # 6, not 6 × 10⁰
        axes[0].yaxis.set_major_formatter(plain)
        values = [value for _, value in losses]
        if max(values) < 10 * min(values):  # else the decades are labels enough
            axes[0].yaxis.set_minor_formatter(plain)
    _label(axes[0], 'training loss')
    if precisions:
        _plot_precision(axes[1], precisions)
    axes[0].set_title(title, loc='left', color=_TEXT_COLOR, fontsize=11)
    axes[-1].set_xlabel('epoch', color=_TEXT_COLOR)
    axes[-1].set_xlim(left=0)
    return figure


def _plot_precision(axes: Axes, precisions: list[tuple[float, float]]) -> None:
    epoch, best = max(precisions, key=lambda point: point[1])
    axes.plot(
        *zip(*precisions, strict=True),
        color=_AP_COLOR,
        linewidth=1.4,
        marker='o',
        markersize=3,
    )
    axes.plot(epoch, best, color=_AP_COLOR, marker='o', markersize=8, fillstyle='none')
    axes.set_title(
        f'best {best:.3f}, after epoch {epoch:g}',
        loc='right',
        color=_AP_COLOR,
        fontsize=9,
    )
    axes.set_ylim(0, 1)
    _label(axes, 'coco/AP on validation')


def _label(axes: Axes, name: str) -> None:
    axes.set_ylabel(name, color=_TEXT_COLOR)
    axes.tick_params(which='both', colors=_TEXT_COLOR, labelsize=9)
    axes.spines[['top', 'right']].set_visible(False)
    axes.spines[['left', 'bottom']].set_color('#bbbbbb')
    axes.grid(axis='y', color='#e6e6e6', linewidth=0.8)
    axes.set_axisbelow(True)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog='python -m sapiens_plugin.workbench.report.training_curve',
        description='Draw loss and AP of a training into its work directory.',
    )
    parser.add_argument('work_dir', type=Path, help='the work_dir of a training')
    print(draw_training_curve(parser.parse_args().work_dir))


if __name__ == '__main__':
    run('training_curve', main)
