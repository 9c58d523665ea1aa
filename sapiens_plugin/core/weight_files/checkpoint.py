"""Read weight files tensor by tensor, executing nothing that is in them.

Three kinds are read: TorchScript archives (as the pre-trained Sapiens files are, in
spite of their ``.pt2`` ending), files of ``torch.save`` (``.pth``), and safetensors.
What a file is, is decided by its bytes, never by its name.
"""

import io
import json
import math
import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sapiens_plugin.errors import InputError, first_line

from .sampling import sample, sample_spans
from .untrusted import check_pickle, narrow_unpickling, what_is_wrong

# The first bytes of torch.save's format before PyTorch 1.6: a pickled magic number.
_LEGACY_MAGIC = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'
# Bytes: the format's own limit.
_MAX_SAFETENSORS_HEADER = 100_000_000
# What unpickling damaged bytes raises (Python's manual: "not necessarily limited to").
_PICKLE_ERRORS = (
    EOFError, AttributeError, IndexError, KeyError, TypeError, ValueError,
    MemoryError, OverflowError, RecursionError,
)  # fmt: skip
_STORAGE_DTYPES = {
    'DoubleStorage': torch.float64,
    'FloatStorage': torch.float32,
    'HalfStorage': torch.float16,
    'BFloat16Storage': torch.bfloat16,
    'LongStorage': torch.int64,
    'IntStorage': torch.int32,
    'ShortStorage': torch.int16,
    'CharStorage': torch.int8,
    'ByteStorage': torch.uint8,
    'BoolStorage': torch.bool,
}


@dataclass(frozen=True)
class LazyTensor:
    """A tensor in a file: its shape is known, its values are read on demand.

    Attributes:
        shape: Its shape.
        read: Reads it; what comes from a mapped file is read where it is looked at.
        read_spans: Reads runs of elements, (begin, end) in row order, one after the
            other into a vector, where that is less work.
    """

    shape: tuple[int, ...]
    read: Callable[[], Tensor]
    read_spans: Callable[[Sequence[tuple[int, int]]], Tensor] | None = None

    def sample(self) -> Tensor:
        """Read the elements that :func:`.sampling.sample` takes of the whole tensor."""
        if self.read_spans is None:
            return sample(self.read())
        return self.read_spans(sample_spans(math.prod(self.shape)))


def sniff(path: str | Path) -> str:
    """Tell by its first and last bytes what kind of weight file this is.

    Returns:
        ``'torchscript'``, ``'pth'``, ``'legacy_pth'`` or ``'safetensors'``.

    Raises:
        InputError: The file is missing, empty, cut short, a web page, a Git LFS
            pointer, or nothing that holds weights.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(
            f'The weight file {path} does not exist. Check the path; '
            '`python3 tools/download_pretrained.py` fetches published weights.'
        )
    if not path.is_file():
        raise InputError(f'{path} is a directory; name the weight file in it.')
    size = path.stat().st_size
    if size == 0:
        raise InputError(
            f'The weight file {path} is empty. Delete it and download again.'
        )
    with open(path, 'rb') as file:
        head = file.read(512)

    if head.startswith(b'PK\x03\x04'):
        return _sniff_zip(path, size)
    if head.startswith(_LEGACY_MAGIC):
        return 'legacy_pth'
    text = head.lstrip(b'\xef\xbb\xbf \t\r\n').lower()
    if text.startswith((b'<!doctype', b'<html', b'<?xml', b'<head')):
        raise InputError(
            f'{path} is a web page, not a weight file ({size} bytes): the download '
            'was answered with HTML, as a login or error page is. Download it again '
            'from the address of the file itself.'
        )
    if text.startswith(b'version https://git-lfs'):
        raise InputError(
            f'{path} is a Git LFS pointer, not the weights themselves. Run '
            '`git lfs pull` in that repository, or download the file directly.'
        )
    if len(head) > 9 and head[8:9] == b'{':
        return _sniff_safetensors(path, size, struct.unpack('<Q', head[:8])[0])
    raise InputError(
        f'{path} ({size} bytes) is not a weight file: it is neither a TorchScript '
        'archive, nor a file of torch.save, nor safetensors.'
    )


def open_weights(path: str | Path) -> dict[str, LazyTensor]:
    """List a weight file's tensors under the names the file gives them.

    Of a ``.pth``, the model's part is taken: the file itself, or what it holds under
    ``state_dict`` or ``model``.

    Raises:
        InputError: As :func:`sniff`, and where the file holds no tensors, is damaged
            inside, or wants code to be run.
    """
    path = Path(path)
    kind = sniff(path)
    if kind == 'torchscript':
        tensors = _open_torchscript(path)
    elif kind == 'safetensors':
        tensors = _open_safetensors(path)
    else:
        tensors = _open_state_dict(path)
    if not tensors:
        raise InputError(f'{path} holds no tensors.')
    return tensors


def load_pickle(path: str | Path) -> Any:
    """Load a file of ``torch.save`` onto the CPU, executing nothing.

    Storages of a zip-format file are mapped, not copied: they take memory only where
    they are touched.

    Raises:
        InputError: As :func:`sniff`, or the file is damaged, is a TorchScript archive
            or safetensors, or asks for anything but tensors and plain containers.
    """
    path = Path(path)
    kind = sniff(path)
    if kind not in ('pth', 'legacy_pth'):
        raise InputError(f'{path} is a {kind} file, not one of torch.save.')
    try:
        _check_pickles(path, kind)
        with narrow_unpickling():
            return torch.load(
                path, map_location='cpu', mmap=kind == 'pth', weights_only=True
            )
    except pickle.UnpicklingError as error:
        wanted = re.search(r'GLOBAL ([\w.]+)', str(error))
        if wanted is None:
            raise _damaged(path, error) from error
        raise InputError(
            f'{path} was refused: it asks for {wanted[1]}, and loading that could run '
            'code of its author. Nothing was executed. If you trust the author, ask '
            'for the weights as safetensors or as a plain state_dict of tensors.'
        ) from None
    except (
        *_PICKLE_ERRORS,
        RuntimeError,
        OSError,
        AssertionError,
        struct.error,
        zipfile.BadZipFile,
    ) as error:
        raise _damaged(path, error) from error


def _check_pickles(path: Path, kind: str) -> None:
    if kind == 'legacy_pth':
        with open(path, 'rb') as file:
            # Magic number, version, machine, content and names of storages, which come
            # next.
            for _ in range(5):
                check_pickle(file)
        return
    with zipfile.ZipFile(path) as archive, archive.open(_tree_of(archive)) as file:
        check_pickle(io.BufferedReader(file))


def _tree_of(archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    # _sniff_zip has seen it: <root>/data.pkl, whatever else lies in the archive.
    return next(
        info
        for info in archive.infolist()
        if info.filename.partition('/')[2] == 'data.pkl'
    )


def _sniff_zip(path: Path, size: int) -> str:
    if not zipfile.is_zipfile(path):
        raise InputError(
            f'The weight file {path} is cut short: it ends after {size} bytes without '
            'its table of contents. Download or copy it again.'
        )
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, *_PICKLE_ERRORS) as error:
        raise _damaged(path, error) from error
    if wrong := what_is_wrong(members, size):
        raise InputError(
            f'{path} was refused: {wrong}, which PyTorch never writes. The archive may '
            'be hostile.'
        )
    inner = [member.filename.partition('/')[2] for member in members]
    if 'data.pkl' not in inner:
        raise InputError(
            f'{path} is a zip archive, but not one that PyTorch wrote (no data.pkl). '
            'If the weight file was packed, unpack it first.'
        )
    if 'constants.pkl' in inner:
        return 'torchscript'
    for member in members:
        _check_stored(path, member)
    return 'pth'


def _sniff_safetensors(path: Path, size: int, header_size: int) -> str:
    with open(path, 'rb') as file:
        file.seek(8)
        header = file.read(min(header_size, _MAX_SAFETENSORS_HEADER))
    if len(header) == header_size:
        try:
            entries = json.loads(header)
            end = max((e['data_offsets'][1] for k, e in entries.items()
                       if k != '__metadata__'), default=0)  # fmt: skip
            is_whole = 8 + header_size + end == size
        except _PICKLE_ERRORS as error:
            raise _damaged(path, error) from error
        if is_whole:
            return 'safetensors'
    raise InputError(
        f'The safetensors file {path} is cut short: {size} bytes are less than its own '
        'header promises. Download or copy it again.'
    )


# --- torch.save ---------------------------------------------------------------------


def _open_state_dict(path: Path) -> dict[str, LazyTensor]:
    content = load_pickle(path)
    for key in ('state_dict', 'model'):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping):
        raise InputError(
            f'{path} holds a {type(content).__name__}, not a state_dict of tensors.'
        )
    return {
        name: LazyTensor(tuple(value.shape), lambda value=value: value)
        for name, value in content.items()
        if isinstance(value, Tensor)
    }


# --- safetensors --------------------------------------------------------------------


def _open_safetensors(path: Path) -> dict[str, LazyTensor]:
    # Imported here: everything else in this package needs PyTorch alone.
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(path, framework='pt')
    except SafetensorError as error:
        raise _damaged(path, error) from error
    return {
        name: LazyTensor(
            tuple(file.get_slice(name).get_shape()),
            lambda name=name: file.get_tensor(name),
        )
        for name in file.keys()
    }


# --- TorchScript --------------------------------------------------------------------


class _TensorRecord(NamedTuple):
    """Where an archive keeps a tensor, as its pickle describes it."""

    storage: tuple
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _ScriptModule(dict):
    """A scripted module's attributes; its code is never looked at."""

    def __init__(self, *args):
        super().__init__()

    def __setstate__(self, attributes: Mapping) -> None:
        self.update(attributes)


class _StructureUnpickler(pickle.Unpickler):
    """Read an archive's tree of modules with stand-ins for every class it names."""

    def find_class(self, module: str, name: str) -> Any:
        if module == '__torch__' or module.startswith('__torch__.'):
            return _ScriptModule
        if (module, name) == ('torch._utils', '_rebuild_tensor_v2'):
            return lambda storage, offset, shape, stride, *_: _TensorRecord(
                storage, offset, tuple(shape), tuple(stride)
            )
        if module == 'torch' and name in _STORAGE_DTYPES:
            return _STORAGE_DTYPES[name]
        if module == 'torch.jit._pickle':
            return lambda values, *_: values
        if (module, name) == ('collections', 'OrderedDict'):
            return OrderedDict
        raise pickle.UnpicklingError(f'it names {module}.{name}')

    def persistent_load(self, pid: Any) -> Any:
        return pid


def _open_torchscript(path: Path) -> dict[str, LazyTensor]:
    archive = zipfile.ZipFile(path)
    tree_info = _tree_of(archive)
    root = tree_info.filename.partition('/')[0]
    _check_stored(path, tree_info)
    try:
        with archive.open(tree_info) as file:
            check_pickle(io.BufferedReader(file))
        with archive.open(tree_info) as file:
            tree = _StructureUnpickler(file).load()
        return {
            name: _lazy(path, archive, root, name, record)
            for name, record in _walk(tree)
        }
    except InputError:
        raise
    except (pickle.UnpicklingError, zipfile.BadZipFile, *_PICKLE_ERRORS) as error:
        raise _damaged(path, error) from error


def _lazy(path, archive, root, name, record) -> LazyTensor:
    _, dtype, key, _, numel = record.storage
    member = f'{root}/data/{key}'
    _check_record(path, archive, member, name, record, dtype, numel)
    return LazyTensor(
        record.shape,
        partial(_read_record, path, archive, member, record, dtype),
        partial(_read_spans, path, archive, member, record, dtype)
        if torch.empty(record.shape, device='meta').stride() == record.stride
        else None,
    )


def _walk(module: Mapping, prefix: str = ''):
    for name, value in module.items():
        if isinstance(value, _TensorRecord):
            yield prefix + name, value
        elif isinstance(value, _ScriptModule):
            yield from _walk(value, f'{prefix}{name}.')


def _check_stored(path: Path, info: zipfile.ZipInfo) -> None:
    if info.compress_type != zipfile.ZIP_STORED:
        raise InputError(
            f'{path} was refused: PyTorch never compresses what it stores of a tensor, '
            f'and {info.filename} is compressed. The archive may be hostile.'
        )


def _check_record(path, archive, member, name, record, dtype, numel) -> None:
    try:
        info = archive.getinfo(member)
    except KeyError:
        raise _damaged(path, f'the values of {name} are missing') from None
    _check_stored(path, info)
    last = record.offset + sum(
        (n - 1) * step for n, step in zip(record.shape, record.stride, strict=True)
    )
    numbers = (record.offset, *record.shape, *record.stride)
    if (
        any(number < 0 for number in numbers)
        or info.file_size != numel * dtype.itemsize
        or not 0 <= last < numel
    ):
        raise _damaged(path, f'the values of {name} are not as many as its shape says')


def _read_record(path, archive, member, record, dtype) -> Tensor:
    buffer = bytearray(archive.getinfo(member).file_size)
    try:
        with archive.open(member) as file:  # checks the CRC as it reads
            file.readinto(buffer)
            file.read(1)
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise _damaged(path, error) from error
    storage = torch.frombuffer(buffer, dtype=dtype)
    return storage.as_strided(record.shape, record.stride, record.offset)


def _read_spans(path, archive, member, record, dtype, spans) -> Tensor:
    runs = []
    with open(path, 'rb') as file:
        file.seek(archive.getinfo(member).header_offset)
        # The last two fields are the lengths of name and extra, which come next.
        name, extra = struct.unpack('<26xHH', file.read(30))
        begin = file.tell() + name + extra + record.offset * dtype.itemsize
        for first, last in spans:
            file.seek(begin + first * dtype.itemsize)
            runs.append(file.read((last - first) * dtype.itemsize))
    return torch.frombuffer(bytearray(b''.join(runs)), dtype=dtype)


def _damaged(path: Path, reason: object) -> InputError:
    return InputError(
        f'The weight file {path} is damaged inside: {first_line(reason)}. '
        'Download or copy it again.'
    )
