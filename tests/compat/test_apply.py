"""All repairs together."""

import sys
from functools import partial

import torch
from repairs import run_python

from sapiens_plugin.compat import (
    checkpoints,
    cpu,
    imports,
    records,
    unpickling,
    workers,
)
from sapiens_plugin.compat.apply import apply


def test_a_second_call_changes_nothing():
    from mmengine import runner
    from mmengine.dist import utils
    from mmengine.hooks import CheckpointHook
    from mmengine.logging import HistoryBuffer
    from mmengine.model import MMDistributedDataParallel
    from mmengine.optim import AmpOptimWrapper, BaseOptimWrapper
    from torch.utils.data._utils import worker

    def state():
        return (
            runner.save_checkpoint,
            runner.checkpoint.load_state_dict,
            CheckpointHook._save_checkpoint_with_step,
            sys.modules['mmcv._ext'],
            utils._init_dist_pytorch,
            MMDistributedDataParallel.__init__,
            AmpOptimWrapper.load_state_dict,
            BaseOptimWrapper.load_state_dict,
            worker._worker_loop,
            HistoryBuffer.mean,
            set(map(str, torch.serialization.get_safe_globals())),
        )

    before = state()
    apply()
    for repair in (
        imports.silence_known_warnings,
        imports.stand_in_for_mmcv_ops,
        imports.stand_in_for_torchvision,
        unpickling.allow_mmengine_checkpoints,
        checkpoints.load_checkpoints_on_cpu,
        checkpoints.release_loaded_weights,
        checkpoints.release_resumed_checkpoints,
        checkpoints.save_checkpoints_whole,
        cpu.run_amp_on_cpu,
        cpu.run_distributed_on_cpu,
        partial(workers.repair_workers, apply),
        workers.await_dead_workers,
        records.leave_non_finite_out_of_means,
    ):
        repair()
    assert state() == before


def test_what_the_project_uses_of_the_stack_imports():
    import mmdet.datasets.transforms
    import mmpose.apis
    import mmpose.engine
    import mmpose.models
    import mmpose.visualization
    from mmengine.visualization import TensorboardVisBackend

    assert mmdet.datasets.transforms.CutOut
    assert mmpose.models.TopdownPoseEstimator
    assert TensorboardVisBackend


_LOOK = """
import json, sys
from sapiens_plugin.compat import imports
from sapiens_plugin.compat.apply import apply

seen = {}
repair = imports.stand_in_for_torchvision
imports.stand_in_for_torchvision = lambda: (seen.update(sys.modules), repair())
apply()
print(json.dumps([name for name in seen if name.startswith(('mmengine.o', 'mmpose'))]))
"""


def test_no_more_of_the_stack_is_imported_before_that_is_repaired():
    # MMEngine's optimizers import what they find, and that may import torchvision.
    seen, _ = run_python(_LOOK)
    assert seen == []
