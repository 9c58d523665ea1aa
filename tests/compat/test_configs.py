"""Texts of configs."""

import copy

import pytest
from mmengine.runner import Runner
from mmengine.visualization import Visualizer

from sapiens_plugin.compat import configs
from sapiens_plugin.errors import InputError


def test_a_config_is_formatted_once(monkeypatch):
    from mmengine.config import Config, config

    formatted = []

    def format_code(text, **_):
        formatted.append(text)
        return f'# formatted\n{text}', True

    monkeypatch.setattr(config, 'FormatCode', format_code)
    configs.format_configs_once.__wrapped__()
    cfg = Config(dict(a=1))
    assert cfg.pretty_text == cfg.pretty_text == '# formatted\na=1'
    assert len(formatted) == 1
    cfg.a = 2
    assert 'a=2' in cfg.pretty_text
    assert len(formatted) == 2


def test_home_is_expanded_before_anything_is_built(
    demo_config, make_runner, tmp_path, monkeypatch
):
    for name in ('HOME', 'USERPROFILE'):  # the latter on Windows
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    demo_config.work_dir = '~/run'
    runner = make_runner(demo_config)
    assert runner.work_dir == str(tmp_path / 'run')
    assert not (tmp_path / '~').exists()


def test_none_turns_any_hook_off(demo_config):
    Visualizer.get_instance('visualizer')  # which some hooks ask for
    for name in demo_config.default_hooks:
        cfg = copy.deepcopy(demo_config)
        cfg.default_hooks[name] = None
        runner = Runner.__new__(Runner)
        runner._hooks = []
        runner.register_hooks(cfg.default_hooks)
        kinds = [hook.type for key, hook in cfg.default_hooks.items() if key != name]
        assert sorted(type(each).__name__ for each in runner.hooks) == sorted(
            ['RuntimeInfoHook', *(kind.rpartition('.')[2] for kind in kinds)]
        )


def test_a_hook_of_the_plugin_that_stands_twice_is_refused(demo_config, make_runner):
    stop = dict(type='EarlyStoppingHook', monitor='coco/AP', rule='greater')
    demo_config.custom_hooks = [stop, dict(stop)]
    make_runner(demo_config)  # others may
    demo_config.custom_hooks.append(dict(type='sapiens_plugin.FlipTestHook'))
    with pytest.raises(
        InputError, match=r'FlipTestHook is .* default_hooks\.flip_test and in custom_h'
    ):
        make_runner(demo_config)
