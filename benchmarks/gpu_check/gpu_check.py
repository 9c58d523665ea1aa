"""Measure on one CUDA GPU everything that this project needs a GPU for.

    .venv/bin/python benchmarks/gpu_check/gpu_check.py --out DIR

The tasks that only compare values and memory run first, at the same time. The tasks
that measure time follow, one at a time. ``DIR/results.json`` is written again after
every task, so an interrupted run keeps all that was measured before. ``--dry-run``
runs the same code on the CPU with small models. README.md describes the tasks.

The exit code is 0 if all tasks were measured, 1 if something failed or was left out, 2
if nothing can be measured here, and 130 after Ctrl-C.
"""

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

# This lies in benchmarks/gpu_check/, or is copied to a folder of the repository.
PROJECT = next(
    folder
    for folder in Path(__file__).resolve().parents
    if (folder / 'sapiens_plugin').is_dir()
)
sys.path.insert(0, str(PROJECT))  # the package need not be installed

from processes import TaskRunner  # noqa: E402
from schedule import TASKS, dry_tasks  # noqa: E402

PROBE = (
    'from sapiens_plugin.workbench.setup_check.gpu_probe import cuda_fault\n'
    'print(cuda_fault() or "")'
)


def main() -> int:
    """Run the tasks, and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--out',
        type=Path,
        metavar='DIR',
        help='the folder for results.json (work_dirs/gpu_check of this repository; '
        'work_dirs/gpu_dry_run for a dry run)',
    )
    parser.add_argument(
        '--seconds',
        type=float,
        default=430,
        help='the time for all tasks (%(default)s)',
    )
    parser.add_argument(
        '--only', metavar='NAMES', help='run the tasks that begin so, as in 3_,2_four'
    )
    parser.add_argument('--dry-run', action='store_true', help='run on the CPU')
    parser.add_argument(
        '--rivals', type=Path, metavar='DIR', help='where other libraries are'
    )
    args = parser.parse_args()
    usual = 'gpu_dry_run' if args.dry_run else 'gpu_check'
    out = (args.out or PROJECT / 'work_dirs' / usual).resolve()
    tasks = [
        task
        for task in (dry_tasks() if args.dry_run else TASKS)
        if not args.only or task.name.startswith(tuple(args.only.split(',')))
    ]
    if not tasks:
        parser.error(f'no task begins with {args.only}')
    if not args.dry_run and (fault := _cuda_fault()):
        print(f'There is no CUDA device to measure: {fault}.', file=sys.stderr)
        print(
            '--dry-run runs the tasks on the CPU, with small models.', file=sys.stderr
        )
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with TaskRunner(
            out,
            project=PROJECT,
            device='cpu' if args.dry_run else 'cuda:0',
            seconds=args.seconds,
            rivals=args.rivals and args.rivals.resolve(),
        ) as runner:
            runner.run(*(task for task in tasks if not task.alone))
            for task in tasks:
                if task.alone:
                    runner.run(task)
    except KeyboardInterrupt:
        print(f'Interrupted. What was measured is in {out}/results.json.')
        return 130
    for failure in runner.failed:
        print(f'FAILED  {failure}')
    print(f'All results are in {out}/results.json.')
    return 1 if runner.failed else 0


def _cuda_fault() -> str:
    """Say why CUDA cannot be used. Another process looks: this one takes no memory."""
    path = os.pathsep.join([str(PROJECT), os.environ.get('PYTHONPATH', '')])
    answer = subprocess.run(
        [sys.executable, '-c', PROBE],
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': path},
    )
    text = answer.stderr if answer.returncode else answer.stdout
    return text.strip().rpartition('\n')[2]


if __name__ == '__main__':
    sys.exit(main())
