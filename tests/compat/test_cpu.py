"""Running without a GPU."""

import json
import re
import socket
import subprocess
import sys

import pytest
import torch
from repairs import environment, load_checkpoint

without_gpu = pytest.mark.skipif(
    torch.accelerator.is_available(), reason='there is an accelerator'
)


@without_gpu
def test_mixed_precision_runs_on_the_cpu(symptoms, job, tmp_path):
    assert 'only available training on gpu' in symptoms['amp']

    amp = dict(wrapper='AmpOptimWrapper', default_scope='mmpose')
    runner = job.toy_runner(tmp_path, **amp)
    model = runner.train()
    assert model.seen_dtype == torch.bfloat16
    assert model.layer.weight.dtype == torch.float32

    # A GPU's scaler refuses an empty state, and starts afresh without one.
    checkpoint = tmp_path / 'epoch_2.pth'
    assert 'loss_scaler' not in load_checkpoint(checkpoint)['optimizer']
    resumed = job.toy_runner(
        tmp_path / 'resumed', epochs=3, resume=True, load_from=str(checkpoint), **amp
    )
    resumed.train()
    assert resumed.iter == 6

    # A checkpoint of a GPU holds the state of its scaler.
    state = load_checkpoint(checkpoint)['optimizer']
    state['loss_scaler'] = dict(
        scale=65536.0,
        growth_factor=2.0,
        backoff_factor=0.5,
        growth_interval=2000,
        _growth_tracker=2,
    )
    resumed.optim_wrapper.load_state_dict(state)
    steps = [s['step'].item() for s in resumed.optim_wrapper.optimizer.state.values()]
    assert steps == [4, 4]


_RANK = """
import json, sys
import torch
from sapiens_plugin.compat import cpu, imports

imports.silence_known_warnings()
cpu.run_distributed_on_cpu()
from compat_toy_job import ToyDataset, toy_runner

rank = int(sys.argv[2])
runner = toy_runner(sys.argv[1], launcher='pytorch', seed=rank)
runner.train()
trained = [p.tolist() for p in runner.model.parameters()]

gradients = []
for wrapper in (None, dict(find_unused_parameters=True)):
    model = runner.wrap_model(wrapper, runner.model.module)
    model.zero_grad()
    model(ToyDataset(rank).inputs)['loss'].backward()
    gradients.append([p.grad.tolist() for p in model.parameters()])
print(json.dumps(dict(
    backend=torch.distributed.get_backend(),
    ranks=torch.distributed.get_world_size(),
    trained=trained,
    gradients=gradients,
)))
"""


def _free_port():
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return listener.getsockname()[1]


@without_gpu
def test_two_processes_train_as_one_on_the_cpu(symptoms, tmp_path):
    # What PyTorch without and with CUDA says where there is no GPU.
    assert re.search('_cuda_setDevice|no NVIDIA driver', symptoms['init_dist'])
    assert 'device_ids' in symptoms['device_ids']

    port = str(_free_port())
    ranks = [
        subprocess.Popen(
            [sys.executable, '-c', _RANK, str(tmp_path), str(rank)],
            env=environment(
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE='2',
                MASTER_ADDR='127.0.0.1',
                MASTER_PORT=port,
                OMP_NUM_THREADS='1',
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [rank.communicate(timeout=120) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    for rank, (_, errors) in zip(ranks, outputs, strict=True):
        assert rank.returncode == 0, errors
        assert 'deprecated' not in errors
    first, second = (json.loads(text.splitlines()[-1]) for text, _ in outputs)
    # The ranks saw different inputs: equal only if gradients were averaged.
    assert first == second
    assert (first['backend'], first['ranks']) == ('gloo', 2)
