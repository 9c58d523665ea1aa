"""Two processes on the CPU, through MMPose's own launch scripts."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

# Writes each rank's weights where a test can compare them.
RANK_DUMP = """
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class RankDump(Hook):
    def after_train_epoch(self, runner):
        path = f'{runner.work_dir}/rank_{get_rank()}_epoch_{runner.epoch + 1}.pth'
        torch.save(runner.model.module.state_dict(), path)
"""
# Sends a signal to one process of two, in the middle of epoch 2.
LEAVE = """
import signal
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class Leave(Hook):
    def after_train_iter(self, runner, *args, **kwargs):
        if runner.iter == 8 and get_rank() == 1:
            signal.raise_signal(signal.SIGTERM)
"""


@pytest.fixture
def job(demo_config, tmp_path) -> Path:
    (tmp_path / 'rank_dump.py').write_text(RANK_DUMP, encoding='utf-8')
    demo_config.custom_imports.imports.append('rank_dump')
    demo_config.custom_hooks = [dict(type='mmengine.RankDump')]
    demo_config.visualizer.vis_backends.append(
        dict(type='sapiens_plugin.CsvVisBackend')
    )
    demo_config.train_dataloader.batch_size = 2
    demo_config.train_dataloader.sampler.shuffle = True
    # 6 batches an epoch and process.
    demo_config.optim_wrapper.accumulative_counts = 2
    demo_config.train_cfg.max_epochs = 3
    demo_config.default_hooks.checkpoint = dict(
        type='sapiens_plugin.CheckpointHook', interval=1
    )
    for scheduler in demo_config.param_scheduler[:-1]:
        scheduler.optimizer_steps = 2
    demo_config.param_scheduler[-1].end = 3
    demo_config.dump(tmp_path / 'job.py')
    return tmp_path / 'job.py'


def call(*command, cwd, code=0) -> str:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    answer = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        timeout=400,
        capture_output=True,
        text=True,
        encoding='utf-8',
        env={
            **os.environ,
            'PATH': f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}',
            'PYTHONPATH': str(cwd),
            'PORT': str(port),
            'OMP_NUM_THREADS': '1',
        },
    )
    said = answer.stdout + answer.stderr
    assert answer.returncode == code, said[-4000:]
    return said


@pytest.mark.skipif(sys.platform == 'win32', reason='the launch scripts need bash')
def test_two_processes_train_and_test_like_one(job, repo, tmp_path):
    said = call('bash', repo / 'tools/dist_train.sh', job, 2, cwd=tmp_path)
    assert 'Phase 1 (head alone) from epoch 1' in said
    assert 'Phase 2 (full fine-tuning) from epoch 2' in said
    # One of them reports.
    assert said.count(' | epoch 1/3 | step 6/6 | loss ') == 1

    work = tmp_path / 'work'
    table = (work / 'metrics.csv').read_text(encoding='utf-8').splitlines()
    assert len(table) == 1 + 3 * 6 + 1
    weights = {
        (rank, epoch): torch.load(work / f'rank_{rank}_epoch_{epoch}.pth')
        for rank in (0, 1)
        for epoch in (1, 2, 3)
    }
    for epoch in (1, 2, 3):
        for name, value in weights[0, epoch].items():
            assert torch.equal(value, weights[1, epoch][name]), (epoch, name)
    for name, value in weights[0, 1].items():
        moved = not torch.equal(value, weights[0, 3][name])
        assert moved, f'{name} did not train in phase 2'
    leave_and_go_on(job, repo, tmp_path, expected=weights[0, 3])

    checkpoint, results = work / 'epoch_3.pth', {}
    for count in (1, 2):
        command = (
            (sys.executable, repo / 'tools/test.py', job, checkpoint)
            if count == 1
            else ('bash', repo / 'tools/dist_test.sh', job, checkpoint, count)
        )
        work = tmp_path / str(count)
        flags = ('--out', f'{work}.json', '--work-dir', work)
        option = f'test_evaluator.outfile_prefix={work}/poses'
        call(*command, *flags, '--cfg-options', option, cwd=tmp_path)
        poses = json.loads((work / 'poses.keypoints.json').read_text('utf-8'))
        results[count] = (
            json.loads(Path(f'{work}.json').read_text('utf-8'))['coco/AP'],
            sorted(poses, key=lambda pose: (pose['image_id'], pose['score'])),
        )
    # Three epochs teach nothing, so the poses themselves are compared beside the AP.
    assert len(results[1][1]) >= 8
    assert results[1] == results[2]


def leave_and_go_on(job, repo, tmp_path, *, expected):
    """Interrupt one process of the same job; both leave, and both go on."""
    (tmp_path / 'leave.py').write_text(LEAVE, encoding='utf-8')
    leaving = tmp_path / 'leaving.py'
    leaving.write_text(
        job.read_text(encoding='utf-8')
        + "\ncustom_imports['imports'].append('leave')\n"
        + "custom_hooks.append(dict(type='mmengine.Leave'))\n",
        encoding='utf-8',
    )
    train = ('bash', repo / 'tools/dist_train.sh')
    flags = ('--work-dir', tmp_path / 'left')
    said = call(*train, leaving, 2, *flags, cwd=tmp_path, code=1)
    # Two micro-batches to a step: a signal in the third of epoch 2 waits for the
    # fourth.
    (saved,) = (tmp_path / 'left').glob('iter_*.pth')
    assert saved.name == 'iter_10.pth'
    told = f'saved in {saved} and goes on from there when the same command is run again'
    assert said.count(told) == 1
    said = call(*train, job, 2, *flags, '--resume', cwd=tmp_path)
    assert 'resumed epoch: 1, iter: 10' in said
    for rank in (0, 1):
        weights = torch.load(tmp_path / 'left' / f'rank_{rank}_epoch_3.pth')
        assert weights.keys() == expected.keys()
        for name, value in weights.items():
            assert torch.equal(value, expected[name]), name
