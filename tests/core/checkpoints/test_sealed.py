import random
import zipfile

import pytest
import torch

from sapiens_plugin.core.checkpoints import sealed
from sapiens_plugin.core.checkpoints.loading import load_from_local
from sapiens_plugin.core.checkpoints.sealed import (
    Damaged,
    digest_of,
    save_sealed,
    verify,
)
from sapiens_plugin.core.weight_files.checkpoint import open_weights
from sapiens_plugin.errors import InputError


def make_checkpoint():
    generator = torch.Generator().manual_seed(0)
    return {
        'meta': dict(epoch=1, iter=3),
        'state_dict': {
            # The first is large enough to be hashed in another thread.
            'a': torch.randn(2**19, generator=generator),
            'b': torch.randn(3, 5, generator=generator),
        },
    }


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp('whole') / 'epoch_1.pth'
    save_sealed(make_checkpoint(), path)
    return path


def test_a_sealed_file_is_what_pytorch_and_zip_tools_open(whole):
    expected = make_checkpoint()['state_dict']
    for mapped in (True, False):
        loaded = torch.load(whole, mmap=mapped)['state_dict']
        assert all(torch.equal(loaded[name], expected[name]) for name in expected)
    with zipfile.ZipFile(whole) as archive:
        assert archive.testzip() is None
        assert archive.comment.endswith(verify(whole).encode())
    assert torch.equal(open_weights(whole)['b'].read(), expected['b'])


def test_the_seal_is_added_to_what_torch_save_writes(whole, tmp_path):
    torch.save(make_checkpoint(), tmp_path / 'plain.pth')
    plain = (tmp_path / 'plain.pth').read_bytes()
    own = whole.read_bytes()
    # PyTorch puts the file's name into the archive, or `archive` where it knows none.
    assert len(own) - len(plain) < 2048
    assert digest_of(make_checkpoint()) == verify(whole) == own[-64:].decode()


@pytest.mark.parametrize('bit', [0, 5])
def test_a_flipped_bit_anywhere_is_noticed(bit, whole, tmp_path):
    content = bytearray(whole.read_bytes())
    draw = random.Random(bit)
    path = tmp_path / 'epoch_1.pth'
    offsets = {
        *range(4),  # the first signature
        *(len(content) - n for n in range(1, 140)),  # the seal and the end record
        *(draw.randrange(len(content)) for _ in range(200)),
    }
    for offset in offsets:
        content[offset] ^= 1 << bit
        path.write_bytes(content)
        with pytest.raises(InputError):
            load_from_local(path)
        content[offset] ^= 1 << bit
    path.write_bytes(content)
    assert load_from_local(path)['meta']['iter'] == 3


def test_padding_and_the_table_of_contents_are_under_the_seal(whole, tmp_path):
    """Nothing that reads the file would stumble over these."""
    content = bytearray(whole.read_bytes())
    padding = content.index(b'FB') + 8  # torch.save aligns records with such a field
    directory = content.rindex(b'PK\x01\x02') + 12  # a time of the last entry
    for offset in (padding, directory):
        damaged = bytearray(content)
        damaged[offset] ^= 1
        path = tmp_path / f'{offset}.pth'
        path.write_bytes(damaged)
        torch.load(path, mmap=True)
        with pytest.raises(InputError, match=f'{path.name} is damaged'):
            load_from_local(path)


def test_a_file_cut_short_anywhere_is_noticed(whole, tmp_path):
    content = whole.read_bytes()
    draw = random.Random(0)
    lengths = {0, 1, 4, 22, 200, *(len(content) - n for n in (1, 2, 64, 97, 119))}
    lengths |= {draw.randrange(len(content)) for _ in range(50)}
    path = tmp_path / 'epoch_1.pth'
    for length in lengths:
        path.write_bytes(content[:length])
        with pytest.raises(InputError):
            load_from_local(path)


def test_bytes_at_the_end_are_noticed(whole, tmp_path):
    path = tmp_path / 'epoch_1.pth'
    path.write_bytes(whole.read_bytes() + b'\0')
    with pytest.raises(InputError, match='is damaged'):
        load_from_local(path)


def test_files_of_others_have_no_seal_and_are_opened(tmp_path):
    torch.save(make_checkpoint(), tmp_path / 'new.pth')
    torch.save(
        make_checkpoint(),
        tmp_path / 'old.pth',
        _use_new_zipfile_serialization=False,
    )
    for name in ('new.pth', 'old.pth'):
        assert verify(tmp_path / name) is None
        assert load_from_local(tmp_path / name)['meta']['iter'] == 3


def test_what_was_verified_is_not_read_again(whole, monkeypatch):
    verify(whole)
    monkeypatch.setattr(sealed, '_digest_of_file', None)  # would fail
    assert len(verify(whole)) == 64


def test_a_disk_that_cannot_be_read_is_no_traceback(whole, tmp_path, monkeypatch):
    def fail(file, size):
        raise OSError(5, 'Input/output error')

    path = tmp_path / 'epoch_1.pth'
    path.write_bytes(whole.read_bytes())
    monkeypatch.setattr(sealed, '_digest_of_file', fail)
    with pytest.raises(InputError, match='cannot be read: Input/output error') as e:
        verify(path)
    assert not isinstance(e.value, Damaged)  # it may be read another time


def test_the_name_comes_after_the_bytes(tmp_path, monkeypatch):
    """A power cut must find the old file or the new one, on the disk."""
    events = []
    path = tmp_path / 'epoch_1.pth'

    def note(name, real):
        def call(*args):
            events.append((name, path.exists()))
            return real(*args)

        return call

    for name in ('sync', 'sync_directory'):
        monkeypatch.setattr(sealed, name, note(name, getattr(sealed, name)))
    save_sealed({'a': torch.ones(3)}, path)
    assert events == [('sync', False), ('sync_directory', True)]
