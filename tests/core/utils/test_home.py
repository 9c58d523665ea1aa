"""``~`` in words of a command line and in texts of a config."""

import pytest

from sapiens_plugin.core.utils.home import expand_texts, expand_word


@pytest.fixture(autouse=True)
def home(monkeypatch):
    for name in ('HOME', 'USERPROFILE'):  # the latter on Windows
        monkeypatch.setenv(name, '/home/me')


@pytest.mark.parametrize(
    'word, expected',
    [
        ('~', '/home/me'),
        ('~/x', '/home/me/x'),
        ('~/x/', '/home/me/x/'),
        ('--work-dir=~/x y', '--work-dir=/home/me/x y'),
        ('work_dir=~', 'work_dir=/home/me'),
        ('default_hooks.checkpoint.out_dir=~/x', None),
        ('~user', '~user'),
        ('~user/x', '~user/x'),
        ('key=~user/x', 'key=~user/x'),
        ('./~/x', './~/x'),
        ('a ~/x', 'a ~/x'),
        ('a=b=~/x', 'a=b=~/x'),
        ('--flag', '--flag'),
        ('', ''),
    ],
)
def test_words_are_expanded_where_a_path_begins(word, expected):
    assert expand_word(word) == (expected or word.replace('~', '/home/me'))


def test_a_backslash_follows_on_windows(monkeypatch):
    import ntpath

    monkeypatch.setattr('os.path.expanduser', ntpath.expanduser)
    monkeypatch.setenv('USERPROFILE', r'C:\Users\me')
    assert expand_word(r'--out=~\runs') == r'--out=C:\Users\me\runs'


def test_texts_are_expanded_wherever_they_stand():
    from mmengine.config import Config

    cfg = Config(
        dict(
            work_dir='~/x',
            loaders=[dict(roots=('~/a', '~')), dict(deep=[['~/b', 'c~']])],
            other=dict(regex='~user', number=1, none=None, names={'~'}),
        )
    )
    expand_texts(cfg._cfg_dict)
    assert cfg.to_dict() == dict(
        work_dir='/home/me/x',
        loaders=[
            dict(roots=('/home/me/a', '/home/me')),
            dict(deep=[['/home/me/b', 'c~']]),
        ],
        other=dict(regex='~user', number=1, none=None, names={'~'}),
    )
    assert cfg.loaders[0].roots[1] == '/home/me'  # of the kinds they were
