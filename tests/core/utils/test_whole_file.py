import errno
import io

import pytest

from sapiens_plugin.core.utils import whole_file as module
from sapiens_plugin.core.utils.whole_file import part_of, whole_file, write_whole


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / 'x'
    path.write_bytes(b'old')
    with pytest.raises(OSError), whole_file(path) as file:
        file.write(b'new')
        assert part_of(path).exists()
        raise OSError(errno.ENOSPC, 'full')
    assert path.read_bytes() == b'old'
    assert not part_of(path).exists()
    with whole_file(path) as file:
        file.write(b'new')
    assert path.read_bytes() == b'new'


def test_a_second_name_of_another_file_is_not_written_over(tmp_path):
    theirs = tmp_path / 'theirs'
    theirs.write_bytes(b'theirs')
    part_of(tmp_path / 'x').hardlink_to(theirs)
    with whole_file(tmp_path / 'x') as file:
        file.write(b'ours')
    assert theirs.read_bytes() == b'theirs'


class FullDisk(io.FileIO):
    """A file that two bytes fit into."""

    def write(self, data):
        super().write(data[:2])
        raise OSError(errno.ENOSPC, 'No space left on device')


def test_a_failure_leaves_the_earlier_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / 'page.html'
    write_whole(path, 'old\n')
    monkeypatch.setattr(module, 'open', FullDisk, raising=False)
    with pytest.raises(OSError, match='No space left'):
        write_whole(path, 'new\n')
    assert path.read_bytes() == b'old\n'
    assert [p.name for p in tmp_path.iterdir()] == ['page.html']
