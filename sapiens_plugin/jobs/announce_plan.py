"""The plan of a job, told and kept when its training starts."""

import json
import math
import shutil
from pathlib import Path

from mmengine.config import Config

from sapiens_plugin.core.checkpoints.run_files import folder_of
from sapiens_plugin.core.checkpoints.saving import RESERVE
from sapiens_plugin.core.utils.amounts import duration, size
from sapiens_plugin.core.utils.free_space import nearest
from sapiens_plugin.core.utils.whole_file import write_whole
from sapiens_plugin.errors import InputError
from sapiens_plugin.workbench.job.job import Persons
from sapiens_plugin.workbench.job.reader import checkpoint_hook
from sapiens_plugin.workbench.planning.machine_probe import probe_machine
from sapiens_plugin.workbench.planning.plan import Plan, make_plan
from sapiens_plugin.workbench.planning.plan_report import as_dict
from sapiens_plugin.workbench.report.work_dir import PLAN_NAME

from .read_config import persons_in_tests, planned_job, stage_measurer


def leave_plan(cfg: Config, work_dir: Path, *, train: int, val: int) -> str:
    """Write ``plan.json`` for the report that will compare it with what happened.

    Measures this machine for some seconds, and reads no data.

    Args:
        cfg: The config of a training job.
        work_dir: Where the job's files go; made where there is none.
        train: Persons that it trains on.
        val: Persons that its validations look at.

    Returns:
        What to tell the user, in one paragraph.
    """
    try:
        test, notes = persons_in_tests(cfg, val)
        job = planned_job(cfg, Persons(train=train, val=val, test=test, notes=notes))
        plan = make_plan(job, probe_machine(), stage_measurer(cfg))
    except InputError as error:
        return f'There is no plan for this job. {error}'
    path = work_dir / PLAN_NAME
    out_dir = checkpoint_hook(cfg).get('out_dir')
    said = _summary(plan) + _room(plan, folder_of(work_dir, out_dir))
    try:
        work_dir.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(as_dict(plan, []), indent=2))
    except OSError as error:
        return f'{said} {path} could not be written: {error}.'
    return said


def _summary(plan: Plan) -> str:
    card = plan.card
    gpu = ''
    if card.vram_mib is not None:
        gpu = (
            f'{math.ceil(plan.vram_peak / 2**20):,} of {card.vram_mib:,} MiB of the GPU'
            f'{"" if plan.fits else ", WHICH DOES NOT FIT"}, '
        )
    return (
        f'Planned, not measured, on {card.driver_name}: '
        f'{duration(plan.total_hours)} in all ({duration(plan.floor_hours)} by '
        f'arithmetic alone), {gpu}{size(sum(plan.host.values()))} of host '
        f'memory, {size(sum(plan.disk.values()))} of disk. tools/plan.py '
        'tells more, and what else would fit.'
    )


def _room(plan: Plan, folder: Path) -> str:
    free = shutil.disk_usage(nearest(folder)).free
    if sum(plan.disk.values()) + RESERVE <= free:
        return ''
    return (
        f' ON THE DISK OF {folder} ARE ONLY {size(free)} FREE, and {size(RESERVE)} of '
        'that are left so: make room, or name another disk with --work-dir.'
    )
