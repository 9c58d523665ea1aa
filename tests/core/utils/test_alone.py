import subprocess
import sys

import pytest

from sapiens_plugin.core.utils.alone import alone
from sapiens_plugin.errors import InputError

OTHER = """
import sys
from pathlib import Path
from sapiens_plugin.core.utils.alone import alone

with alone(Path(sys.argv[1]), refusal=''):
    print('held', flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_kept_out_until_the_first_ends(tmp_path):
    path = tmp_path / 'new' / 'lock'
    with subprocess.Popen(
        [sys.executable, '-c', OTHER, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == 'held\n'
        with pytest.raises(InputError, match=r'Wait\.'), alone(path, refusal='Wait.'):
            pytest.fail('two of them at once')
        other.kill()  # it cannot tidy up
    with alone(path, refusal='Wait.'):
        assert path.exists()
    assert not path.exists()


def test_an_error_frees_the_lock(tmp_path):
    with pytest.raises(KeyError), alone(tmp_path / 'lock', refusal=''):
        raise KeyError
    with alone(tmp_path / 'lock', refusal=''):
        pass
