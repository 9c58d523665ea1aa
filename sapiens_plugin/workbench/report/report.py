"""Writes down in one page what a run did: ``report.html`` in its work directory.

The page needs nothing but itself: no network, no scripts, no other files.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import sapiens_plugin
from sapiens_plugin.core.utils.amounts import duration, size
from sapiens_plugin.core.utils.whole_file import write_whole
from sapiens_plugin.errors import InputError

from .charts import shown
from .dumped_config import find, read_dumped_config
from .kept_validation import read_kept_validation
from .markup import Markup, element, join
from .plan_and_run import Phase, configured_phases, measured
from .report_curves import curves
from .report_parts import missing, section, table
from .report_plan import plan_against_run
from .report_style import STYLE
from .report_validation import validation_sections
from .run_log import RunLog, read_run_log
from .work_dir import (
    Checkpoint,
    checkpoints,
    last_test,
    read_plan,
    versions,
)

FILE_NAME = 'report.html'
# What the summary of a config tells, and where it stands.
_JOB = (
    ('Model', 'model.type'),
    ('Architecture', 'model.backbone.arch'),
    ('Input, height × width in px', 'model.backbone.img_size'),
    ('Blocks that never train', 'model.backbone.frozen_stages'),
    ('Weights to start from', 'model.backbone.init_cfg.checkpoint'),
    ('Precision', 'model.precision'),
    ('Mode of streaming', 'model.mode'),
    ('Images in GPU memory at once', 'model.micro_batch'),
    ('GPU memory budget, MiB', 'model.vram_budget'),
    ('Heatmaps', 'model.head.decoder'),
    ('Data', 'train_dataloader.dataset.data_root'),
    ('Training annotations', 'train_dataloader.dataset.ann_file'),
    ('Validation annotations', 'val_dataloader.dataset.ann_file'),
    ('Batch of an iteration', 'train_dataloader.batch_size'),
    ('Iterations an optimizer step', 'optim_wrapper.accumulative_counts'),
    ('Optimizer', 'optim_wrapper.optimizer.type'),
    ('Learning rate', 'optim_wrapper.optimizer.lr'),
    ('Weight decay', 'optim_wrapper.optimizer.weight_decay'),
    ('Layer decay of the rate', 'optim_wrapper.paramwise_cfg.layer_decay_rate'),
    ('Epochs', 'train_cfg.max_epochs'),
    ('Epochs between validations', 'train_cfg.val_interval'),
    ('Seed', 'randomness.seed'),
)
_T = TypeVar('_T')
# A browser then refuses whatever is not in the page.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Run:
    """What a work directory says of its run.

    Attributes:
        name: Of the work directory.
        log: What was logged.
        config: The job's config, empty if it cannot be read.
        config_text: The same as it was written down.
        checkpoints: Those that lie there.
        versions: Of the software and the machine.
        tested: What ``tools/test.py`` found last, if it ran: AP and its start.
    """

    name: str
    log: RunLog
    config: dict
    config_text: str
    checkpoints: list[Checkpoint]
    versions: dict[str, str]
    tested: tuple[float, str] | None

    @property
    def max_epochs(self) -> int:
        """How many epochs the job has; those that were logged if it does not say."""
        epochs = find(self.config, 'train_cfg.max_epochs')
        return epochs if isinstance(epochs, int) else self.log.train[-1]['epoch']

    @property
    def warmup_epochs(self) -> int:
        """How many epochs the head trains alone."""
        named = find(self.config, 'default_hooks') or {}
        for hook in [*named.values(), *(find(self.config, 'custom_hooks') or [])]:
            if 'PhaseSwitchHook' in str(find(hook, 'type')):
                epochs = find(hook, 'warmup_epochs')
                return epochs if isinstance(epochs, int) else 10  # the hook's own
        return 0

    @property
    def accumulation(self) -> int:
        """How many iterations make an optimizer step."""
        count = find(self.config, 'optim_wrapper.accumulative_counts')
        return count if isinstance(count, int) else 1

    @property
    def trained_epochs(self) -> float:
        """How many epochs the run has behind it, the last perhaps in part."""
        if self.is_finished:
            return self.max_epochs
        last = self.log.train[-1]['iter'] / self.log.epoch_length
        return max([last, *(record['step'] for record in self.log.validation)])

    @property
    def is_finished(self) -> bool:
        """Whether its last epoch has ended."""
        names = {checkpoint.name for checkpoint in self.checkpoints}
        last = max((record['step'] for record in self.log.validation), default=0)
        ended = last >= self.max_epochs or f'epoch_{self.max_epochs}.pth' in names
        return ended and self.log.train[-1]['epoch'] >= self.max_epochs


def write_report(work_dir: Path) -> Path:
    """Write the report of a run, finished or not.

    Args:
        work_dir (Path): The ``work_dir`` of a training.

    Returns:
        Path: The page, ``work_dir/report.html``.

    Raises:
        InputError: Nothing was logged there, its log is damaged, or the page cannot
            be written.
    """
    work_dir = Path(work_dir)
    page = _page(work_dir)
    path = work_dir / FILE_NAME
    try:
        write_whole(path, page)
    except OSError as error:
        raise InputError(
            f'{path} cannot be written: {error.strerror or error}. Free the way to it.'
        ) from error
    return path


def _page(work_dir: Path) -> str:
    run = _read_run(work_dir)
    title = f'Training report: {run.name}'
    head = element(
        'head',
        Markup('<meta charset="utf-8">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup('<meta name="color-scheme" content="light dark">'),
        element('title', title),
        Markup(f'<style>{STYLE}</style>'),
    )
    body = element(
        'body',
        element('h1', title),
        element('p', _state(run, work_dir), class_='quiet'),
        _facts(run),
        element('main', *_sections(run, work_dir)),
        element(
            'p',
            f'Written {datetime.now():%Y-%m-%d %H:%M} by sapiens_plugin '
            f'{sapiens_plugin.__version__}.',
            class_='quiet',
        ),
    )
    html = element('html', head, body, lang='en')
    return f'<!DOCTYPE html>\n{html}\n'


def _sections(run: Run, work_dir: Path) -> list[Markup]:
    kept, kept_problem = _unless_damaged(read_kept_validation, work_dir)
    plan, plan_problem = _unless_damaged(read_plan, work_dir)
    phases = configured_phases(run.max_epochs, run.warmup_epochs)
    return [
        section('Curves', curves(run.log, phases)),
        *(
            section(heading, content)
            for heading, content in validation_sections(kept, kept_problem)
        ),
        section(
            'The plan against what happened',
            plan_against_run(
                plan,
                run.log,
                phases,
                problem=plan_problem,
                trained=run.trained_epochs,
                accumulation=run.accumulation,
                checkpoint_bytes=sum(c.size for c in run.checkpoints),
                validation_seconds=kept.seconds if kept else None,
            ),
        ),
        section('Job', _job(run)),
        section('Checkpoints', _checkpoints(run)),
        section('Versions', _versions(run)),
    ]


def _unless_damaged(
    read: Callable[[Path], _T | None], work_dir: Path
) -> tuple[_T | None, str | None]:
    """Return what a file holds, or else what is wrong with it."""
    try:
        return read(work_dir), None
    except InputError as error:
        return None, str(error)


def _read_run(work_dir: Path) -> Run:
    log = read_run_log(work_dir)
    folder = log.starts[-1].folder
    path = folder / 'vis_data' / 'config.py'
    config, text = {}, ''
    if path.is_file():
        text = path.read_text(encoding='utf-8', errors='replace')
        try:
            config = read_dumped_config(path)
        except InputError:
            config = {}  # its text is in the page
    return Run(
        name=work_dir.resolve().name,
        log=log,
        config=config,
        config_text=text,
        checkpoints=checkpoints(work_dir),
        versions=versions(folder),
        tested=last_test(work_dir),
    )


def _state(run: Run, work_dir: Path) -> str:
    last = run.log.train[-1]
    logged = max(
        path.stat().st_mtime for path in work_dir.glob('*/vis_data/scalars.json')
    )
    when = f'{datetime.fromtimestamp(logged):%Y-%m-%d %H:%M}'
    if resumed := len(run.log.starts) - 1:
        when += f', resumed {resumed} times' if resumed > 1 else ', resumed once'
    if run.is_finished:
        epochs = f'{run.max_epochs} of {run.max_epochs} epochs'
        return f'Finished: {epochs} were trained. Last log {when}.'
    return (
        f'Not finished: the last log line is of epoch {last["epoch"]} of '
        f'{run.max_epochs}, iteration {last["iter"]:,}, {when}. The run is still going '
        'or was interrupted.'
    )


def _facts(run: Run) -> Markup:
    log = run.log
    last = log.train[-1]
    started = Phase('', 1, last['epoch'])
    facts = [('Epochs', f'{last["epoch"]} of {run.max_epochs}', None)]
    precisions = log.validation_series('coco/AP')
    if precisions:
        epoch, best = max(precisions, key=lambda point: point[1])
        facts.append(('Best AP', f'{best:.3f}', f'after epoch {epoch:g}'))
    if run.tested:
        tested, when = run.tested
        facts.append(('Test AP', f'{tested:.3f}', f'tools/test.py, {when}'))
    losses = log.train_series('loss')
    if losses:
        facts.append(('Last loss', shown(losses[-1][1]), None))
    whole = measured(
        log, started, trained=run.trained_epochs, accumulation=run.accumulation
    )
    if whole:
        facts.append(('Training time', duration(whole.hours), 'without validation'))
        facts.append(
            (
                'Optimizer step',
                f'{shown(whole.seconds_per_step)} s',
                'with loading',
            )
        )
    if 'persons_per_second' in last:
        facts.append(('Persons per second', shown(last['persons_per_second']), 'last'))
    return element(
        'dl',
        *(
            element(
                'div',
                element('dt', name),
                element('dd', value, element('small', note) if note else None),
            )
            for name, value, note in facts
        ),
        class_='facts',
    )


def _job(run: Run) -> Markup:
    if not run.config_text:
        return missing(
            'The config was not found where MMEngine writes it down '
            f'({run.log.starts[-1].folder.name}/vis_data/config.py).'
        )
    whole = element(
        'details',
        element('summary', 'The whole config'),
        element('pre', run.config_text, tabindex=0),
    )
    if not run.config:
        return join(missing('The config cannot be read; its text is below.'), whole)
    rows = [
        (name, _setting(value))
        for name, path in _JOB
        if (value := find(run.config, path)) is not None
    ]
    if run.warmup_epochs:
        rows.append(('Epochs of the head alone', run.warmup_epochs))
    return join(table(('Setting', 'Value'), rows, caption='The job in short'), whole)


def _checkpoints(run: Run) -> Markup:
    if not run.checkpoints:
        return missing('No checkpoint lies in the work directory.')
    rows = [(c.name, size(c.size)) for c in run.checkpoints]
    if len(rows) > 1:
        rows.append(('together', size(sum(c.size for c in run.checkpoints))))
    return table(
        ('File', 'Size'),
        rows,
        caption='In the work directory now, the oldest first. best_*.pth hold weights '
        'alone; a run is resumed from an epoch_N.pth.',
        numbers=True,
    )


def _versions(run: Run) -> Markup:
    if not run.versions:
        return missing('The log of the last start says nothing of versions.')
    return table(
        ('What', 'Version'),
        list(run.versions.items()),
        caption='As the last start of the run found them',
    )


def _setting(value: object) -> str:
    """Write a value of a config for a reader."""
    if isinstance(value, dict):
        return ', '.join(f'{key}: {_setting(item)}' for key, item in value.items())
    if isinstance(value, list | tuple):
        return ' × '.join(map(_setting, value))
    return str(value)
