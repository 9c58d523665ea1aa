import copy
import itertools
import subprocess
import sys

import pytest

import sapiens_plugin.registry  # noqa: F401  (first: it repairs what MMPose imports)

_names = itertools.count()


@pytest.fixture(scope='session', autouse=True)
def quick_config_texts():
    """Leave configs as they are written: to format one takes seconds, for every run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            'mmengine.config.config.FormatCode', lambda text, **_: (text, True)
        )
        yield


@pytest.fixture(scope='session')
def make_runner():
    """Build a stock Runner from a config, under a name of its own."""
    from mmengine.config import Config
    from mmengine.runner import Runner

    def make(cfg: Config, *extra_hooks) -> Runner:
        cfg = copy.deepcopy(cfg)
        cfg.experiment_name = cfg.visualizer.name = f'test_{next(_names)}'
        runner = Runner.from_cfg(cfg)
        for hook in extra_hooks:
            runner.register_hook(hook, 'LOWEST')
        return runner

    return make


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
