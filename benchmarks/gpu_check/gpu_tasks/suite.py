"""The tests of this project that need a CUDA device."""

import subprocess
import sys
from xml.etree import ElementTree

from measuring.part_report import Report

TESTS = (
    'tests/core/streaming/test_cuda.py',
    'tests/core/streaming/test_precision.py::test_the_probe_gives_its_memory_back',
    'tests/streamed/test_pose_estimator.py'
    '::test_the_limit_is_there_as_long_as_the_chain',
)


def run(spec: dict, report: Report) -> None:
    """Run pytest, and report what failed."""
    junit = report.path.with_suffix('.xml')
    command = [
        *(sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider'),
        *('-o', 'addopts=', '--import-mode=importlib'),
        *('-n', str(spec['workers']), '--dist', 'worksteal'),
        *('--durations', '8', f'--junitxml={junit}', '--tb', 'short'),
        *(*TESTS, '-k', spec['expression']),
    ]
    with report.part('pytest'):
        done = subprocess.run(command, capture_output=True, text=True)
        failures = []
        cases = ElementTree.parse(junit).iter('testcase') if junit.is_file() else ()
        for case in cases:
            for found in (*case.findall('failure'), *case.findall('error')):
                text = (found.get('message') or '') + (found.text or '')
                name = f'{case.get("classname")}::{case.get("name")}'
                failures.append(dict(test=name, text=text[-1500:]))
        report.add(
            rc=done.returncode,
            summary=done.stdout.strip().splitlines()[-12:],
            failures=failures,
            stderr=done.stderr[-1500:],
        )
        done.check_returncode()
