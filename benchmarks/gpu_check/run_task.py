"""Run one task in this process: ``python run_task.py KIND SPEC OUT``.

KIND is a module of ``gpu_tasks``, SPEC is JSON, and OUT is the file for the results.
The process ends when the one that started it ends.
"""

import importlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from measuring.part_report import Report


def main() -> None:
    """Run the task and write its results."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _, kind, spec, out = sys.argv
    report = Report(Path(out))
    report.add(started=time.time())
    with report.part('task'):
        importlib.import_module(f'gpu_tasks.{kind}').run(json.loads(spec), report)
    report.add(ended=time.time(), complete=True)


def _end_with_parent() -> None:
    os.read(0, 1)  # nothing is written there, so it returns when the parent is gone
    os.killpg(0, signal.SIGKILL)  # and this is a process group of its own


if __name__ == '__main__':
    main()
