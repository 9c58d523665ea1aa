"""What planning predicts for this machine."""

import tempfile
from dataclasses import asdict
from pathlib import Path

from measuring.part_report import Report

from sapiens_plugin.jobs.read_config import load_config, planned_job, stage_measurer
from sapiens_plugin.workbench.planning.machine_probe import probe_machine
from sapiens_plugin.workbench.planning.plan import make_plan
from sapiens_plugin.workbench.planning.plan_report import as_dict


def run(spec: dict, report: Report) -> None:
    """Make the plans of ``tools/plan.py``, which needs the project's environment."""
    card = probe_machine()
    report.add(probed=asdict(card))
    base = Path('configs/sapiens1b_gtx1650.py').resolve()
    for title, precision in (('fp32', 'float32'), ('bf16', 'bfloat16')):
        with report.part(title), tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f'plan_{title}.py'
            model = dict(precision=precision)
            path.write_text(f'_base_ = {str(base)!r}\nmodel = {model!r}\n')
            cfg = load_config(path)
            plan = make_plan(planned_job(cfg), card, stage_measurer(cfg))
            found = dict(
                as_dict(plan, []),
                steps={phase.name: asdict(phase.step) for phase in plan.phases},
                batches=dict(
                    validation=asdict(plan.validation.batch),
                    test=asdict(plan.test.batch),
                ),
            )
            report.add(**{title: found})
