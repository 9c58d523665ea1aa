"""Files made to do harm: refused, nothing executed, little memory taken."""

import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sapiens_plugin.core.checkpoints.loading import load_from_local
from sapiens_plugin.core.weight_files.checkpoint import load_pickle, open_weights, sniff
from sapiens_plugin.core.weight_files.untrusted import narrow_unpickling
from sapiens_plugin.errors import InputError

HUGE = b'\x8a\x05' + (2**36).to_bytes(5, 'little')  # a number, 64 GiB


class Calls:
    """Pickled as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def pickled(*operations):
    return b'\x80\x02' + b''.join(operations) + b'.'


def rewrite(path, *, tree=None, rename=None, **how):
    """Write an archive again, with another tree of objects or other names."""
    with zipfile.ZipFile(path) as archive:
        items = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, 'w') as archive:
        for name, content in items:
            is_tree = name.endswith('/data.pkl')
            content = tree if tree is not None and is_tree else content
            archive.writestr(rename(name) if rename else name, content, **how)
    return path


@pytest.fixture
def pth(tmp_path):
    torch.save({'state_dict': {'a': torch.ones(2)}}, tmp_path / 'a.pth')
    return tmp_path / 'a.pth'


@pytest.fixture
def script(tmp_path):
    path = tmp_path / 'a.pt2'
    torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)).save(path)
    return path


def load_all(path):
    """Open a file in every way that this project has."""
    for load in (load_pickle, load_from_local, open_weights):
        with pytest.raises(InputError) as caught:
            load(path)
    return str(caught.value)


@pytest.mark.parametrize(
    'gadget',
    [
        lambda m: Calls(os.system, f'touch {m}'),
        lambda m: Calls(Path.touch, m),
        lambda m: Calls(eval, f'open({str(m)!r}, "w")'),
        lambda m: Calls(subprocess.Popen, ['touch', str(m)]),
        lambda m: Calls(getattr, Path, 'touch'),
        lambda m: Calls(torch.load, str(m)),
        lambda m: Calls(np.load, str(m)),
    ],
)
@pytest.mark.parametrize('form', ['new', 'legacy'])
def test_calls_are_not_made(gadget, form, tmp_path):
    marker = tmp_path / 'executed'
    path = tmp_path / 'weights.pth'
    torch.save(
        {'state_dict': {'a': torch.ones(1)}, 'x': gadget(marker)},
        path,
        _use_new_zipfile_serialization=form == 'new',
    )
    assert 'was refused' in load_all(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    'tree',
    [
        # What a REDUCE or a BUILD makes of names that are allowed.
        pickled(b'cbuiltins\ngetattr\n', b'cos\nsystem\nX\1\0\0\0a\x86R'),
        pickled(b'cposix\nsystem\nX\2\0\0\0id\x85R'),
        pickled(b'c__builtin__\nexec\nX\1\0\0\0a\x85R'),
        pickled(b'ctorch.hub\nload\nX\1\0\0\0a\x85R'),
        pickled(b'csapiens_plugin.core.weight_files.checkpoint\nload_pickle\n)R'),
        pickled(b'(X\2\0\0\0idios\nsystem\n'),  # INST
        pickled(b'X\2\0\0\0os\x94X\6\0\0\0system\x94\x93'),  # STACK_GLOBAL
        b'',
        b'.',
        b'\x80\x02',
        pickled(b'0'),
        pickled(b'cos'),
        pickled(b'X\xff\xff\xff\x7fa'),
    ],
)
def test_forged_pickles_are_refused(tree, pth, script):
    load_all(rewrite(pth, tree=tree))
    with pytest.raises(InputError):
        open_weights(rewrite(script, tree=tree))


@pytest.mark.parametrize(
    'name',
    [
        '../../a/data/0',
        '/etc/cron.d/a',
        'a/data/../../../0',
        'C:/a/data/0',
        '..\\..\\a',
    ],
)
@pytest.mark.parametrize('form', ['pth', 'script'])
def test_paths_out_of_an_archive_are_refused(name, form, request):
    path = request.getfixturevalue(form)
    with zipfile.ZipFile(path, 'a') as archive:
        info = zipfile.ZipInfo('placeholder')
        info.filename = name  # as given, whatever the system
        archive.writestr(info, b'x')
    with pytest.raises(InputError, match='was refused: it has a member of the name'):
        sniff(path)
    load_all(path)


@pytest.mark.filterwarnings('ignore:Duplicate name')
@pytest.mark.parametrize('name', ['a/data.pkl', 'a/DATA.PKL', 'b/data.pkl'])
def test_archives_with_two_trees_are_refused(name, pth):
    """Whoever checks the one must not load the other."""
    with zipfile.ZipFile(pth, 'a') as archive:
        archive.writestr(name, pickled(b'N'))
    with pytest.raises(InputError, match=r'was refused: it has two'):
        sniff(pth)


def test_compressed_checkpoints_are_refused(pth):
    big = pickled(b'X' + struct.pack('<I', 10**8) + b'a' * 10**8)
    rewrite(pth, tree=big, compress_type=zipfile.ZIP_DEFLATED)
    assert pth.stat().st_size < 10**6
    assert 'never compresses' in load_all(pth)


def test_a_member_that_says_it_is_large_is_refused(script):
    """Its memory would be taken before the first byte is read."""
    with zipfile.ZipFile(script) as archive:
        info = archive.getinfo(f'{script.stem}/data/0')
    entry = script.read_bytes().rindex(info.filename.encode()) - 46
    content = bytearray(script.read_bytes())
    struct.pack_into('<II', content, entry + 20, 2**31, 2**31)
    script.write_bytes(content)
    assert 'members are larger than itself' in load_all(script)
    struct.pack_into('<II', content, entry + 20, 16, 2**31)
    script.write_bytes(content)
    assert 'says that it has two sizes' in load_all(script)


def test_bytes_and_text_come_as_before(tmp_path):
    content = {
        'array': np.arange(300, dtype=np.uint8).tobytes(),
        'text': 'é' * 10,
        'tensor': torch.ones(2),
    }
    torch.save(content, tmp_path / 'a.pth')
    loaded = load_pickle(tmp_path / 'a.pth')
    assert loaded['array'] == content['array'] and loaded['text'] == content['text']
    # Others' use of PyTorch is not narrowed.
    torch.save(bytearray(3), tmp_path / 'b.pth')
    with narrow_unpickling():
        with pytest.raises(pickle.UnpicklingError, match='GLOBAL bytearray'):
            torch.load(tmp_path / 'b.pth')
    assert torch.load(tmp_path / 'b.pth') == bytearray(3)


def tensor_of(*, dtype='FloatStorage', key='0', numel=4, offset=0, shape=(4,), step=1):
    """Pickle a tree that holds a tensor, as its author likes it."""
    buffer = io.BytesIO()
    pickler = pickle._Pickler(buffer, 2)
    pickler.write(b'\x80\x02c__torch__\nModule\n)\x81}X\x01\x00\x00\x00a')
    pickler.write(b'ctorch._utils\n_rebuild_tensor_v2\n(')
    pickler.save('storage')
    pickler.write(b'ctorch\n' + dtype.encode() + b'\n')
    for value in (key, 'cpu', numel):
        pickler.save(value)
    pickler.write(b't')
    # The opcodes above are those of a tuple that BINPERSID takes.
    content = buffer.getvalue().replace(b'_v2\n(', b'_v2\n((', 1) + b'Q'
    buffer = io.BytesIO()
    pickler = pickle._Pickler(buffer, 2)
    for value in (offset, shape, (step,) * len(shape), False, None):
        pickler.save(value)
    return content + buffer.getvalue() + b'tRsb.'


def test_a_tensor_of_a_forged_tree_is_read(script):
    rewrite(script, tree=tensor_of())
    assert open_weights(script)['a'].read().shape == (4,)


@pytest.mark.parametrize(
    'lie',
    [
        dict(numel=2**40),
        dict(numel='x'),
        dict(numel=None),
        dict(key='../../etc/passwd'),
        dict(key=7),
        dict(offset=-1),
        dict(offset=2**62),
        dict(shape=(-4,)),
        dict(shape=(5,)),
        dict(shape='abcd'),
        dict(shape=(2, 2**40)),
        dict(step=-1),
        dict(step=2**40),
        dict(dtype='HalfStorage'),
    ],
    ids=str,
)
def test_a_tensor_that_is_not_what_is_stored_is_refused(lie, script):
    rewrite(script, tree=tensor_of(**lie))
    with pytest.raises(InputError):
        open_weights(script)


@pytest.mark.parametrize(
    'tree',
    [
        # A module within itself, and modules within modules within modules.
        pickled(b'c__torch__\nM\n)\x81q\x00}X\x01\x00\x00\x00ah\x00sb'),
        pickled(b'c__torch__\nM\n)\x81}X\x01\x00\x00\x00a' * 5000, b'N', b'sb' * 5000),
        pickled(b'c__torch__\nM\n)\x81K\x01b'),
        pickled(b'K\x01'),
    ],
)
def test_odd_trees_are_refused(tree, script):
    with pytest.raises(InputError):
        open_weights(rewrite(script, tree=tree))


@pytest.mark.parametrize(
    'header',
    [
        b'[' * 100_000,
        b'{"a": 3}',
        b'{"a": {"data_offsets": [0]}}',
        b'{"a": {"data_offsets": [0, "4"]}}',
        b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [2, 4]}}',
    ],
    ids=range(7),
)
def test_forged_safetensors_are_refused(header, tmp_path):
    pytest.importorskip('safetensors')
    header = b'{' + header[1:]
    path = tmp_path / 'a.safetensors'
    path.write_bytes(struct.pack('<Q', len(header)) + header + bytes(4))
    load_all(path)


_LOAD = """
import resource, sys
from sapiens_plugin.errors import InputError
from sapiens_plugin.core.weight_files.checkpoint import load_pickle, open_weights

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

before = peak()
for path in sys.argv[1:]:
    for load in (load_pickle, open_weights):
        try:
            load(path)
        except InputError:
            pass
        else:
            sys.exit(f'{path} was loaded')
print((peak() - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='reads ru_maxrss as KiB')
def test_little_files_take_little_memory(tmp_path, request):
    """Each would take a gigabyte and more."""
    double = b'X\x09\x00\x00\x00hex_codec\x86R'
    trees = dict(
        size=pickled(b'cbuiltins\nbytearray\n', HUGE, b'\x85R'),
        objects=pickled(b'(', b'\x8f' * 5_000_000, b't'),  # empty sets
        codecs=pickled(
            b'c_codecs\nencode\n' * 30, b'X\x04\x00\x00\x00abcd', double * 30
        ),
        table=pickled(b'N', b'r' + struct.pack('<I', 2**31 - 1)),
    )
    paths = []
    for name, tree in trees.items():
        for form in ('pth', 'pt2'):
            path = tmp_path / f'{name}.{form}'
            if form == 'pth':
                torch.save({'a': torch.ones(2)}, path)
            else:
                torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)).save(path)
            if (name, form) != ('table', 'pth'):  # does no harm there
                paths.append(rewrite(path, tree=tree))
    legacy = tmp_path / 'legacy.pth'
    torch.save({}, legacy, _use_new_zipfile_serialization=False)
    content = legacy.read_bytes()
    assert content.count(b'\x80\x02}q\x00.\x80\x02]q\x00.') == 1
    legacy.write_bytes(
        content.replace(b'\x80\x02}q\x00.\x80\x02]q\x00.', trees['size'])
    )
    answer = subprocess.run(
        [sys.executable, '-c', _LOAD, *map(str, [*paths, legacy])],
        check=True,
        timeout=120,
        capture_output=True,
        text=True,
    )
    assert int(answer.stdout) < 50  # MiB
