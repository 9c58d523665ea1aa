import sys

import pytest
import torch

from sapiens_plugin.core.checkpoints import frozen
from sapiens_plugin.core.checkpoints.loading import load_from_local
from sapiens_plugin.core.checkpoints.run_identity import Run, origin_of
from sapiens_plugin.core.checkpoints.saving import save_to_local
from sapiens_plugin.core.checkpoints.sealed import digest_of
from sapiens_plugin.errors import InputError


def save_in_parts(folder, name='iter_3.pth', value=1.0):
    """Save a checkpoint that lacks its frozen weights; return it and their file."""
    weights = {'stem': torch.full((3,), value), 'block': torch.full((2, 2), value)}
    note = frozen.set_aside(weights, folder)
    checkpoint = {
        'meta': {'iter': 3},
        'state_dict': {'head': torch.zeros(2)},
        'frozen': note,
    }
    save_to_local(checkpoint, folder / name)
    return folder / name, folder / note['file']


def test_what_was_set_aside_is_filled_in(tmp_path):
    path, file = save_in_parts(tmp_path)
    assert torch.load(path)['state_dict'].keys() == {'head'}
    state = load_from_local(path)['state_dict']
    assert state.keys() == {'head', 'stem', 'block'}
    assert state['block'].tolist() == [[1, 1], [1, 1]]
    assert file.name == f'frozen_{load_from_local(path)["frozen"]["digest"][:16]}.pth'


def test_it_is_written_once(tmp_path, monkeypatch):
    _, file = save_in_parts(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(frozen, 'save_to_local', None)  # is not called
        save_in_parts(tmp_path, 'iter_4.pth')
    _, other = save_in_parts(tmp_path, 'iter_5.pth', value=2.0)
    assert other != file
    for name, value in ('iter_3.pth', 1), ('iter_4.pth', 1), ('iter_5.pth', 2):
        stem = load_from_local(tmp_path / name)['state_dict']['stem']
        assert stem.tolist() == [value] * 3


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_damaged_file_is_written_again(tmp_path):
    path, file = save_in_parts(tmp_path)
    flip(file)
    save_in_parts(tmp_path, 'iter_4.pth')
    assert load_from_local(path)['state_dict']['stem'].tolist() == [1] * 3


def exchange(file):
    save_to_local({'stem': torch.zeros(3), 'block': torch.zeros(2, 2)}, file)


def unseal(file):
    torch.save({'stem': torch.ones(3), 'block': torch.ones(2, 2)}, file)


@pytest.mark.parametrize(
    'harm, message',
    [
        (lambda file: file.unlink(), 'there is no such file. Copy frozen_'),
        (flip, 'damaged, or not the one it was. Copy frozen_'),
        (exchange, 'damaged, or not the one it was'),
        (unseal, 'damaged, or not the one it was'),
    ],
)
def test_a_missing_or_another_file_is_refused(harm, message, tmp_path):
    path, file = save_in_parts(tmp_path)
    harm(file)
    with pytest.raises(InputError, match=message) as caught:
        load_from_local(path)
    assert str(path) in str(caught.value) and file.name in str(caught.value)


@pytest.mark.parametrize(
    'note',
    [
        dict(file='../frozen_0123456789abcdef.pth', digest=''),
        dict(file='/etc/passwd', digest=''),
        dict(file=7, digest=''),
        dict(file='frozen_0123456789abcdef.pth'),
        'frozen_0123456789abcdef.pth',
        None,
    ],
)
def test_a_note_of_others_making_is_refused(note, tmp_path):
    path = tmp_path / 'iter_3.pth'
    torch.save({'state_dict': {}, 'frozen': note}, path)
    with pytest.raises(InputError, match='was refused: what it says of frozen weights'):
        load_from_local(path)


def test_a_checkpoint_without_weights_is_refused(tmp_path):
    note = frozen.set_aside({'a': torch.ones(1)}, tmp_path)
    torch.save({'state_dict': [], 'frozen': note}, tmp_path / 'iter_3.pth')
    with pytest.raises(InputError, match='was refused'):
        load_from_local(tmp_path / 'iter_3.pth')


def test_files_go_when_nothing_needs_them(tmp_path):
    run = Run('mine', str(tmp_path))
    first, used = save_in_parts(tmp_path)
    second, unused = save_in_parts(tmp_path, 'iter_4.pth', value=2.0)
    _, kept = save_in_parts(tmp_path, 'iter_5.pth', value=3.0)
    frozen.remove_unused([first, second], tmp_path, run=run, keep=kept.name)
    assert used.exists() and unused.exists() and kept.exists()
    frozen.remove_unused([first], tmp_path, run=run, keep=kept.name)
    assert used.exists() and not unused.exists() and kept.exists()


def test_files_of_another_run_stay(tmp_path):
    mine, other = (Run(name, str(tmp_path)) for name in ('mine', 'other'))
    for run in (mine, other):
        frozen.set_aside({'stem': torch.ones(3)}, tmp_path, run=run)
    assert len(list(tmp_path.glob('frozen_*'))) == 2  # of equal weights
    frozen.remove_unused([], tmp_path, run=mine, keep='')
    (left,) = tmp_path.glob('frozen_*')
    assert origin_of(left).run_id == 'other'


def test_weights_alone_as_earlier_versions_kept_them_are_read(tmp_path):
    weights = {'stem': torch.ones(3)}
    path = tmp_path / f'frozen_{digest_of(weights)[:16]}.pth'
    save_to_local(weights, path)
    note = dict(file=path.name, digest=digest_of(weights))
    save_to_local({'state_dict': {}, 'frozen': note}, tmp_path / 'iter_3.pth')
    state = load_from_local(tmp_path / 'iter_3.pth')['state_dict']
    assert state['stem'].tolist() == [1] * 3


def test_none_goes_while_a_checkpoint_cannot_be_read(tmp_path):
    path, file = save_in_parts(tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    frozen.remove_unused([path], tmp_path, run=Run('x', ''), keep='')
    assert file.exists()


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc/self/status')
def test_setting_aside_copies_nothing(tmp_path):
    import re
    import subprocess

    script = """
import re, sys, torch
from pathlib import Path
from sapiens_plugin.core.checkpoints import frozen
weights = {str(i): torch.ones(2**21) for i in range(16)}  # 128 MiB
def peak():
    return int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])
before = peak()
frozen.set_aside(weights, Path(sys.argv[1]))
print(peak() - before)
"""
    answer = subprocess.run(
        [sys.executable, '-c', script, str(tmp_path)],
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert int(re.fullmatch(r'(\d+)\n', answer.stdout)[1]) < 12 * 1024  # KiB
