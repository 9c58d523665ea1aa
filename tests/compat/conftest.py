"""Each repair of the stack: what is seen without it, and that it is gone with it.

What the bare stack does is looked at in child processes, where nothing is repaired.
"""

from pathlib import Path

import pytest
import torch
from repairs import Call, run_python

import sapiens_plugin.registry  # noqa: F401  (first: it repairs what MMPose imports)

_SYMPTOMS = """
import importlib, json, os, sys
from pathlib import Path
import torch

checkpoint, hostile, weights = sys.argv[1:]
seen = {}

def look(name, action):
    try:
        seen[name] = repr(action())
    except Exception as error:
        seen[name] = f'{type(error).__name__}: {error}'

def distributed_model():
    from mmengine.model import MMDistributedDataParallel
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group('gloo', store=store, rank=0, world_size=1)
    return MMDistributedDataParallel(torch.nn.Linear(1, 1), device_ids=[0])

from mmengine.dist import init_dist
from mmengine.fileio import FileClient
from mmengine.optim import AmpOptimWrapper
from mmengine.runner.checkpoint import CheckpointLoader, load_from_http

look('mmcv_ops', lambda: importlib.import_module('mmcv.ops'))
look('torchvision', lambda: importlib.import_module('torchvision'))
look('resume', lambda: CheckpointLoader.load_checkpoint(checkpoint))
look('device', lambda: CheckpointLoader.load_checkpoint(weights, 'meta')['a'].device)
look('http', lambda: load_from_http(Path(hostile).as_uri()))
optimizer = torch.optim.SGD([torch.zeros(1)], 0.1)
look('amp', lambda: AmpOptimWrapper(optimizer=optimizer))
os.environ.update(RANK='0', LOCAL_RANK='0', WORLD_SIZE='1')
look('init_dist', lambda: init_dist('pytorch'))
look('device_ids', distributed_model)
FileClient('disk')
print(json.dumps(seen))
"""


@pytest.fixture(scope='session', autouse=True)
def repaired():
    from sapiens_plugin.compat.apply import apply

    apply()


@pytest.fixture(scope='session')
def job():
    import compat_toy_job  # imports MMEngine: not while tests are collected

    return compat_toy_job


@pytest.fixture(scope='session')
def finished_run(job, tmp_path_factory):
    """Work directory of two epochs of the toy job."""
    work_dir = tmp_path_factory.mktemp('run')
    job.toy_runner(work_dir).train()
    return work_dir


@pytest.fixture(scope='session')
def symptoms(finished_run, tmp_path_factory):
    """What the bare stack answers to each thing that is repaired, and its output."""
    folder = tmp_path_factory.mktemp('bare')
    marker = folder / 'executed'
    torch.save(Call(Path.touch, marker), folder / 'hostile.pth')
    torch.save({'a': torch.ones(1)}, folder / 'weights.pth')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('TORCH_HOME', str(folder))
        seen, seen['output'] = run_python(
            _SYMPTOMS,
            finished_run / 'epoch_2.pth',
            folder / 'hostile.pth',
            folder / 'weights.pth',
        )
    seen['executed'] = marker.exists()
    return seen
