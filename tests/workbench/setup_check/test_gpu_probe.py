import sys
import warnings

import pytest
import torch

from sapiens_plugin.workbench.setup_check.gpu_probe import (
    NvidiaGpu,
    cuda_fault,
    cuda_torch,
    driver_fault,
    find_nvidia_gpu,
    nvidia_gpus,
    warn_if_gpu_unused,
)

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


def test_every_gpu_is_listed_with_driver_and_memory(nvidia_smi):
    assert nvidia_gpus() == []
    nvidia_smi('echo "GTX 1650, 581.15, 4096, 3790"; echo "GB10, 580.95, [N/A], [N/A]"')
    assert nvidia_gpus() == [
        NvidiaGpu('GTX 1650', '581.15', total_mib=4096, free_mib=3790),
        NvidiaGpu('GB10', '580.95', total_mib=0, free_mib=0),
    ]


def test_the_driver_is_asked_for_plain_numbers(nvidia_smi):
    nvidia_smi(
        '[ "$1 $2" = "--query-gpu=name,driver_version,memory.total,memory.free '
        '--format=csv,noheader,nounits" ] && echo "A, 1, 2, 3"'
    )
    assert nvidia_gpus() == [NvidiaGpu('A', '1', total_mib=2, free_mib=3)]


def test_a_driver_that_does_not_answer_says_why(nvidia_smi):
    assert driver_fault() is None  # none there
    nvidia_smi('echo all well')
    assert driver_fault() is None
    nvidia_smi('echo "NVIDIA-SMI has failed. Update."; echo "more"; exit 9')
    assert driver_fault() == 'NVIDIA-SMI has failed. Update'
    nvidia_smi('exit 9')
    assert driver_fault() == 'exit code 9'
    assert nvidia_gpus() == []


def test_the_cuda_build_of_the_same_version_is_named():
    assert cuda_torch('2.13.0+cpu') == cuda_torch('2.13.0')
    assert cuda_torch('2.13.0')[0] == 'torch==2.13.0+cu130'


def test_pytorch_says_why_it_cannot_use_the_gpu(monkeypatch):
    def fail(*args, **kwargs):
        assert kwargs['device'] == 'cuda'
        raise RuntimeError('no kernel image is available.\nCompile with …')

    monkeypatch.setattr(torch, 'ones', fail)
    assert cuda_fault() == 'no kernel image is available'
    monkeypatch.setattr(torch, 'ones', lambda *args, **kwargs: torch.zeros(1))
    assert cuda_fault() is None
