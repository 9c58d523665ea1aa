import copy
import itertools

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
