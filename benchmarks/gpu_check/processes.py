"""Runs every task in a process of its own, and collects the results in one file."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

from measuring.part_report import failed_parts, write_json
from schedule import Task

from sapiens_plugin.launch import prepare_torch

RUN_TASK = Path(__file__).resolve().parent / 'run_task.py'
LOG_CHARACTERS = 3000  # of the output of a task that did not come to its end


class TaskRunner:
    """Runs tasks in a ``with`` statement; none is left when that ends, however it ends.

    Args:
        out: The folder for ``results.json``. What an earlier call measured there is
            kept, except of tasks that run again.
        project: The folder that contains ``sapiens_plugin``.
        device: The device for all tasks.
        seconds: The time for all tasks together.
        rivals: A folder with other libraries, for the tasks that need them.

    Attributes:
        failed: What was not measured, such as ``'TASK: PART'`` or ``'TASK: rc 1'``.
    """

    def __init__(
        self,
        out: Path,
        *,
        project: Path,
        device: str,
        seconds: float,
        rivals: Path | None,
    ):
        self.failed: list[str] = []
        self._out, self._project = out, project
        self._device, self._rivals = device, rivals
        self._started = time.monotonic()
        self._deadline = self._started + seconds
        self._running: dict[str, tuple[subprocess.Popen, float]] = {}
        self._log: list[dict] = []
        path = out / 'results.json'
        nothing = dict(log=[], failed=[], results={})
        self._earlier = json.loads(path.read_text()) if path.is_file() else nothing

    def __enter__(self) -> Self:
        self._out.mkdir(parents=True, exist_ok=True)
        self._temporary = tempfile.TemporaryDirectory(dir=self._out, prefix='tasks_')
        self._folder = Path(self._temporary.name)
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._running):
            self._end(name, how='interrupted')
        self._temporary.cleanup()

    def run(self, *tasks: Task) -> None:
        """Run tasks at the same time, those for which there is enough time."""
        for task in tasks:
            left = self._deadline - time.monotonic()
            if left < task.limit / 3:
                self.failed.append(f'{task.name}: left out')
                self._note(task.name, f'left out, {left:.0f} s left')
            else:
                self._start(task)
        for task in tasks:
            if task.name in self._running:
                self._finish(task)

    def _start(self, task: Task) -> None:
        path = [self._project, self._project / 'benchmarks']
        path += [os.environ.get('PYTHONPATH'), self._rivals if task.rival else None]
        environment = dict(
            os.environ, PYTHONPATH=os.pathsep.join(map(str, filter(None, path)))
        )
        prepare_torch(environment)  # as tools/train.py does
        spec = json.dumps(dict(task.spec, device=self._device))
        out = self._folder / task.name
        with out.with_suffix('.log').open('w') as log:
            process = subprocess.Popen(
                [sys.executable, RUN_TASK, task.kind, spec, out.with_suffix('.json')],
                cwd=self._project,
                env=environment | task.env,
                stdin=subprocess.PIPE,  # nothing is written: it ends when we end
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that its own children end with it
            )
        self._running[task.name] = process, time.monotonic()

    def _finish(self, task: Task) -> None:
        process, begun = self._running[task.name]
        end = min(begun + task.limit, self._deadline)
        # It is not reaped yet, so that its process group stays its own.
        look = os.WEXITED | os.WNOHANG | os.WNOWAIT
        while not (ended := os.waitid(os.P_PID, process.pid, look)):
            if time.monotonic() > end:
                break
            time.sleep(0.05)
        self._end(task.name, how=None if ended else 'cut off')

    def _end(self, name: str, *, how: str | None) -> None:
        """End a task and all that it started, and take its results."""
        process, begun = self._running[name]
        took = time.monotonic() - begun
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdin.close()
        del self._running[name]
        how = how or f'rc {process.returncode}'
        results = self._results_of(name)
        failed = failed_parts(results) + ([] if results.get('complete') else [how])
        self.failed += [f'{name}: {part}' for part in failed]
        self._note(name, how, seconds=round(took, 1))

    def _note(self, name: str, how: str, **more: float) -> None:
        self._log.append(dict(task=name, how=how, **more))
        seconds = time.monotonic() - self._started
        took = f', {more["seconds"]:.0f} s' if more else ''
        print(f'{seconds:6.1f} s  {name}: {how}{took}', flush=True)
        results: dict[str, dict | str] = {}
        for log in sorted(self._folder.glob('*.log')):
            results[log.stem] = self._results_of(log.stem)
            if not results[log.stem].get('complete'):
                text = log.read_text(errors='replace')
                results[f'{log.stem} log'] = text[-LOG_CHARACTERS:]
        again, before = {log.stem for log in self._folder.glob('*.log')}, self._earlier
        found = dict(
            device=self._device,
            log=[entry for entry in before['log'] if entry['task'] not in again],
            failed=[f for f in before['failed'] if f.partition(':')[0] not in again],
            results={
                name: result
                for name, result in before['results'].items()
                if name.removesuffix(' log') not in again
            },
        )
        found['log'] += self._log
        found['failed'] += self.failed
        found['results'] |= results
        write_json(self._out / 'results.json', found)

    def _results_of(self, name: str) -> dict:
        path = self._folder / f'{name}.json'
        return json.loads(path.read_text()) if path.is_file() else {}
