import subprocess
import sys

import pytest

import sapiens_plugin.registry  # noqa: F401  (first: it repairs what MMPose imports)


@pytest.fixture
def two_processes():
    """Run a script that forks two; return the lines that rank 0 and rank 1 print."""

    def run(script: str, place) -> tuple[str, str]:
        answer = subprocess.run(
            [sys.executable, '-c', script, str(place)],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert answer.returncode == 0, answer.stderr[-3000:]
        first, second = sorted(
            line for line in answer.stdout.splitlines() if line[:2] in ('0 ', '1 ')
        )
        return first, second

    return run
