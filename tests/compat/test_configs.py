"""Texts of configs."""

from sapiens_plugin.compat import configs


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
