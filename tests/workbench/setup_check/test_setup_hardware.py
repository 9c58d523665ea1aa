import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from sapiens_plugin.core.streaming.precision import Precision
from sapiens_plugin.errors import InputError
from sapiens_plugin.workbench.job.reader import read_job
from sapiens_plugin.workbench.setup_check import setup_hardware
from sapiens_plugin.workbench.setup_check.gpu_probe import NvidiaGpu
from sapiens_plugin.workbench.setup_check.setup_hardware import (
    check_gpu,
    check_gpu_memory,
    check_hardware,
    check_host_memory,
    check_precision,
    check_shared_memory,
    check_workers,
)
from sapiens_plugin.workbench.setup_check.setup_report import Commands

CONFIGS = Path(__file__).parents[3] / 'configs'
GPU = NvidiaGpu('NVIDIA GeForce GTX 1650', '581.15', total_mib=4096, free_mib=3790)
GB = 10**9
COMMANDS = Commands(Path('checkout'), python='python')


def job(name, **changes):
    path = CONFIGS / f'{name}.py'
    cfg = Config.fromfile(path, import_custom_modules=False)
    cfg.merge_from_dict(changes)
    return read_job(cfg.to_dict(), path)


@pytest.fixture(scope='module')
def streamed():
    return job('sapiens1b_gtx1650')


@pytest.fixture(scope='module')
def resident():
    return job('sapiens1b_a100')


@pytest.fixture
def torch_build(monkeypatch):
    """Make PyTorch a build, and say whether it finds a GPU and how that answers."""

    def make(cuda, *, found=False, fault=None):
        monkeypatch.setattr(torch, '__version__', '2.13.0+cpu')
        monkeypatch.setattr(torch.version, 'cuda', cuda)
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: found)
        monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device=0: 'A card')
        monkeypatch.setattr(setup_hardware, 'cuda_fault', lambda: fault)
        monkeypatch.setattr(setup_hardware, 'driver_fault', lambda: None)

    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    return make


def test_no_gpu_is_no_failure_and_says_what_can_be_done(torch_build):
    torch_build(None)
    gpu, pytorch = check_gpu([], COMMANDS)
    assert (gpu.status, pytorch.status) == ('warn', 'ok')
    assert 'demo' in gpu.detail and 'CPU' in pytorch.detail


def test_a_driver_that_does_not_answer_is_told(torch_build, monkeypatch):
    torch_build(None)
    monkeypatch.setattr(setup_hardware, 'driver_fault', lambda: 'has failed')
    gpu, _ = check_gpu([], COMMANDS)
    assert gpu.status == 'warn' and 'has failed' in gpu.detail and 'driver' in gpu.mend


def test_a_cpu_build_beside_a_gpu_is_a_failure_with_its_command(torch_build):
    torch_build(None)
    gpu, pytorch = check_gpu([GPU, GPU], COMMANDS)
    assert gpu.detail == 'NVIDIA GeForce GTX 1650, driver 581.15 and 1 more'
    assert pytorch.status == 'fail' and 'without CUDA' in pytorch.detail
    assert pytorch.mend == (
        'python -m pip install torch==2.13.0+cu130 --index-url '
        'https://download.pytorch.org/whl/cu130'
    )


def test_a_cuda_build_that_works(torch_build):
    torch_build('13.0', found=True)
    gpu, pytorch = check_gpu([GPU], COMMANDS)
    assert (gpu.status, pytorch.status) == ('ok', 'ok')
    assert 'CUDA 13.0' in pytorch.detail
    without_tool, _ = check_gpu([], COMMANDS)
    assert without_tool.detail == 'A card'


@pytest.mark.parametrize(
    'driver, visible, mend',
    [
        ('472.12', None, 'driver 580'),
        ('581.15', None, '--force-reinstall'),
        ('472.12', '7', 'CUDA_VISIBLE_DEVICES=7'),
    ],
)
def test_a_cuda_build_that_cannot_use_the_gpu(
    driver, visible, mend, torch_build, monkeypatch
):
    torch_build('13.0', fault='driver is too old')
    if visible:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
    _, pytorch = check_gpu([replace(GPU, driver=driver)], COMMANDS)
    assert pytorch.status == 'fail' and 'driver is too old' in pytorch.detail
    assert mend in pytorch.mend


@pytest.mark.parametrize('free, status', [(3790, 'ok'), (3000, 'ok'), (2999, 'fail')])
def test_gpu_memory_against_the_budget(free, status, streamed):
    found = check_gpu_memory(free, 4096, 978, streamed, COMMANDS)
    assert found.status == status and f'{free:,} of 4,096 MiB' in found.detail
    assert (found.mend is None) == (status == 'ok')
    if status == 'fail':
        assert found.mend.startswith('close other programs')
        assert found.mend.endswith('--cfg-options model.vram_budget=2699')


@pytest.mark.parametrize(
    'budget, free, offered',
    [
        (500, 3600, 978),  # too small to run
        (500, None, 978),  # found without a GPU as well
        (500, 900, None),  # and so is what is free
        (978, 978, 'ok'),
        (978, None, 'ok'),
        (3000, 1000, 978),  # more than is free, 90% of which is too small
        (3000, 700, None),
        (None, 1100, 'ok'),
        (None, 1000, 978),
        (None, 900, None),
    ],
)
def test_a_budget_is_offered_only_where_it_works(budget, free, offered):
    changed = job('sapiens1b_gtx1650', **{'model.vram_budget': budget})
    total = None if free is None else 4096
    found = check_gpu_memory(free, total, 978, changed, COMMANDS)
    assert found.status == ('ok' if offered == 'ok' else 'fail')
    assert 'needs 978' in found.detail
    if offered is None:
        assert 'model.vram_budget=' not in found.mend and 'micro_batch' in found.mend
    elif offered != 'ok':
        assert found.mend.endswith(f'--cfg-options model.vram_budget={offered}')


@pytest.mark.parametrize('free, status', [(35_217, 'ok'), (21_000, 'fail')])
def test_gpu_memory_against_all_that_an_unstreamed_job_takes(free, status, resident):
    found = check_gpu_memory(free, 80_000, 35_217, resident, COMMANDS)
    assert found.status == status and '35,217' in found.detail
    assert (found.mend is None) == (status == 'ok')


def test_what_a_job_needs_is_computed_only_where_it_can_be_compared(
    streamed, resident, torch_build, monkeypatch
):
    torch_build(None)
    monkeypatch.setattr(setup_hardware, 'nvidia_gpus', list)
    asked = []

    def least_memory(dtype, capability):
        asked.append((dtype, capability))
        raise InputError('No plan.')

    def look(job):
        checks = check_hardware(job, COMMANDS, least_memory)
        return {check.name: check for check in checks}.get('GPU memory')

    assert look(None) is None and look(resident) is None
    assert not asked
    found = look(streamed)  # it has a budget
    assert (found.status, found.detail) == ('fail', 'No plan.')
    monkeypatch.setattr(setup_hardware, 'nvidia_gpus', lambda: [GPU])
    assert look(resident).status == 'fail'
    assert asked == [(torch.float32, None), (torch.bfloat16, None)]
    assert look(None).detail == '3,790 of 4,096 MiB free'


def test_precision_is_measured_on_a_gpu_alone(streamed, resident, monkeypatch):
    def choose(device, requested):
        assert device.type == 'cuda'
        if requested == 'bfloat16':
            raise InputError('bfloat16 gives wrong values here.')
        return Precision(torch.float32, False, f'float32: {requested}.', {})

    monkeypatch.setattr(setup_hardware, 'choose_precision', choose)
    cuda, cpu = torch.device('cuda'), torch.device('cpu')
    found, dtype = check_precision(cpu, streamed)
    assert (found.status, dtype) == ('ok', torch.float32)
    for job in (streamed, None):
        found, dtype = check_precision(cuda, job)
        assert (found.detail, dtype) == ('float32: auto', torch.float32)
    found, dtype = check_precision(cuda, resident)
    assert dtype is None
    assert found.status == 'fail' and 'wrong values' in found.detail
    assert 'optim_wrapper.dtype' in found.mend


@pytest.mark.parametrize(
    'free, status', [(14 * GB, 'ok'), (12 * GB, 'warn'), (11 * GB, 'fail')]
)
def test_host_memory_against_a_streamed_job(free, status, streamed):
    found = check_host_memory(free, streamed, COMMANDS, on_gpu=True)
    assert found.status == status
    assert 'the job takes 10.4 GiB to 12.1 GiB, by how' in found.detail  # the plan's
    assert 'because' not in found.detail
    assert (found.mend is not None) == (status == 'fail')


def test_without_a_gpu_activations_are_in_host_memory(streamed):
    free = 12 * GB
    assert check_host_memory(free, streamed, COMMANDS, on_gpu=True).status == 'warn'
    found = check_host_memory(free, streamed, COMMANDS, on_gpu=False)
    assert found.status == 'fail'
    assert 'the job takes 12.1 GiB; ' in found.detail
    assert found.mend.startswith('close other programs')  # nothing narrower is left
    exact = job('sapiens1b_gtx1650', **{'model.mode': 'exact'})
    offered = {
        check_host_memory(free * GB, exact, COMMANDS, on_gpu=on_gpu).mend
        for free, on_gpu in ((16, True), (18, False))
    }
    (offered,) = offered  # activations of 2 GB are beside it there
    assert offered.endswith('--cfg-options model.moment_dtype=int8')


@pytest.mark.parametrize(
    'free, option',
    [
        (18 * GB, 'model.moment_dtype=bfloat16'),
        (15 * GB, 'model.moment_dtype=int8'),
        (12 * GB, 'model.mode=compact'),
        (9 * GB, None),
    ],
)
def test_the_widest_setting_that_fits_is_named(free, option):
    exact = job('sapiens1b_gtx1650', **{'model.mode': 'exact'})
    found = check_host_memory(free, exact, COMMANDS, on_gpu=True)
    assert found.status == 'fail'
    if option:
        assert found.mend.endswith(f'--cfg-options {option}')
        setting = dict([option.split('=')])
        base = {} if option == 'model.mode=compact' else {'model.mode': 'exact'}
        fits = job('sapiens1b_gtx1650', **base, **setting)
        again = check_host_memory(free, fits, COMMANDS, on_gpu=True)
        assert again.status != 'fail'
    else:
        assert 'smaller model' in found.mend


def test_host_memory_against_a_resident_job(resident):
    def status(free, on_gpu):
        return check_host_memory(free, resident, COMMANDS, on_gpu=on_gpu).status

    assert status(9 * GB, True) == 'ok'
    assert status(9 * GB, False) == 'fail'
    assert status(8 * GB, True) == 'fail'
    assert check_host_memory(GB, None, COMMANDS, on_gpu=True).detail == '954 MiB free'


def test_more_workers_than_cores_are_noted(streamed):
    assert check_workers(2, streamed, COMMANDS).status == 'ok'
    found = check_workers(1, streamed, COMMANDS)
    assert found.status == 'warn'
    assert found.mend.endswith('train_dataloader.num_workers=1')
    changed = replace(streamed, options=['model.micro_batch=1'])
    assert '--cfg-options model.micro_batch=1 train_dataloader.num_workers=1' in (
        check_workers(1, changed, COMMANDS).mend
    )
    assert check_workers(1, None, COMMANDS).detail == 'one core'


def test_a_small_shared_memory_is_a_failure(streamed):
    found = check_shared_memory(64 * 2**20, streamed, COMMANDS)  # as Docker gives
    assert found.status == 'fail' and '122 MiB' in found.detail
    assert '--shm-size' in found.mend
    assert 'train_dataloader.num_workers=0' in found.mend
    assert check_shared_memory(129_000_000, streamed, COMMANDS).status == 'ok'
    alone = replace(streamed, loading=dict.fromkeys(streamed.loading, 0))
    assert check_shared_memory(0, alone, COMMANDS).status == 'ok'


def test_what_is_found_is_what_is_judged(streamed, torch_build, monkeypatch):
    """All of it on a machine that is stood in for."""

    def look():
        return check_hardware(streamed, COMMANDS, lambda dtype, capability: 978)

    memory = namedtuple('Memory', 'available')
    usage = namedtuple('Usage', 'free')
    monkeypatch.setattr(setup_hardware, 'nvidia_gpus', lambda: [GPU])
    monkeypatch.setattr(
        setup_hardware.psutil, 'virtual_memory', lambda: memory(14 * GB)
    )
    monkeypatch.setattr(setup_hardware, 'num_cores', lambda: 4)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage(GB))
    monkeypatch.setattr(setup_hardware, '_SHARED_MEMORY', CONFIGS)

    torch_build(None)
    found = {check.name: check for check in look()}
    assert found['PyTorch'].status == 'fail'
    assert found['GPU memory'].detail.startswith('3,790 of 4,096 MiB')
    assert found['host memory'].status == 'ok'

    torch_build('13.0', found=True)
    monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda device: (2**31, 2**32))
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: (7, 5))
    monkeypatch.setattr(
        setup_hardware,
        'choose_precision',
        lambda device, requested: Precision(torch.float32, False, str(device), {}),
    )
    found = {check.name: check for check in look()}
    assert found['GPU memory'].detail.startswith('2,048 of 4,096 MiB')
    assert found['precision'].detail == 'cuda'
    assert found['host memory'].status == 'ok'
    assert found['shared memory'].status == 'ok'
    assert '4 cores' in found['processors'].detail


def test_a_resident_job_holds_gradients_and_moments_of_what_trains():
    trunk = job('sapiens1b_a100', **{'model.backbone.frozen_stages': 40})
    assert trunk.num_trained() == 29_505_809
    found = check_host_memory(9 * GB, trunk, COMMANDS, on_gpu=False)
    held = 12 * 29_505_809 / 2**20
    assert f'and {held:.0f} MiB before activations' in found.detail


def test_all_boundaries_may_come_to_the_host(streamed):
    assert setup_hardware._boundary_bytes(streamed) == 40 * 32 * 24 * 18 * 1536 * 2


def test_persons_follow_the_size_of_the_annotations(tmp_path):
    root = {
        f'{s}_dataloader.dataset.data_root': str(tmp_path) for s in ('train', 'val')
    }
    data = job('sapiens1b_gtx1650', **root)
    assert setup_hardware._persons(data) == 156_165  # COCO's, while it is not there
    train = data.sources[0].annotations
    train.parent.mkdir(parents=True)
    train.write_bytes(bytes(1_590_000))
    assert setup_hardware._persons(data) == 1_000 + 6_352
