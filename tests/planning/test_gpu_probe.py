import sys
import warnings

import pytest
import torch

from sapiens_plugin.planning.gpu_probe import find_nvidia_gpu, warn_if_gpu_unused

pytestmark = pytest.mark.skipif(
    sys.platform == 'win32', reason='stands in for nvidia-smi with a shell script'
)


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Put an ``nvidia-smi`` on the path that does what a test says."""
    monkeypatch.setenv('PATH', str(tmp_path))

    def make(script):
        path = tmp_path / 'nvidia-smi'
        path.write_text(f'#!/bin/sh\n{script}\n')
        path.chmod(0o755)

    return make


def test_the_driver_names_the_gpu(nvidia_smi):
    assert find_nvidia_gpu() is None  # no driver at all
    nvidia_smi('echo "NVIDIA GeForce GTX 1650 with Max-Q Design"; echo "Second"')
    assert find_nvidia_gpu() == 'NVIDIA GeForce GTX 1650 with Max-Q Design'


def test_a_driver_that_fails_is_no_gpu(nvidia_smi):
    nvidia_smi('echo "NVIDIA-SMI has failed"; exit 9')
    assert find_nvidia_gpu() is None


def test_a_cpu_build_beside_a_gpu_is_warned_of_with_the_cure(nvidia_smi, monkeypatch):
    nvidia_smi('echo "NVIDIA GeForce GTX 1650"')
    monkeypatch.setattr(torch.version, 'cuda', None)
    with pytest.warns(UserWarning, match='GTX 1650') as caught:
        warn_if_gpu_unused()
    message = str(caught[0].message)
    assert message.endswith(
        f'{sys.executable} -m pip install torch==2.13.0+cu130 '
        '--index-url https://download.pytorch.org/whl/cu130'
    )


@pytest.mark.parametrize('cuda, gpu', [('13.0', 'echo A100'), (None, 'exit 1')])
def test_nothing_is_said_where_all_is_well(cuda, gpu, nvidia_smi, monkeypatch):
    nvidia_smi(gpu)
    monkeypatch.setattr(torch.version, 'cuda', cuda)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        warn_if_gpu_unused()
