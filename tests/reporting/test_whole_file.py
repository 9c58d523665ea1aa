import errno
from pathlib import Path

import pytest

from sapiens_plugin.reporting.whole_file import write_whole


def test_a_failure_leaves_the_earlier_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / 'page.html'
    write_whole(path, 'old\n')
    write_text = Path.write_text

    def half(self, text, **kwargs):
        write_text(self, text[:2], **kwargs)
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(Path, 'write_text', half)
    with pytest.raises(OSError, match='No space left'):
        write_whole(path, 'new\n')
    assert path.read_bytes() == b'old\n'
    assert [p.name for p in tmp_path.iterdir()] == ['page.html']
