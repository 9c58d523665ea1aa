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
