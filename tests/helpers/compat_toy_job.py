"""The smallest job that MMEngine's Runner can do, for tests of the repairs.

Run as a program it writes a checkpoint of two epochs into a folder, under the names of
the versions of Python and NumPy: so were those in tests/compat/checkpoints made.

    PYTHONPATH=. python tests/helpers/compat_toy_job.py FOLDER
"""

import platform
import sys
import tempfile
from itertools import count
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader, Dataset

_numbers = count()


class ToyModel(BaseModel):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 2)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        output = self.layer(inputs)
        self.seen_dtype = output.dtype
        return dict(loss=output.float().square().mean())


class ToyDataset(Dataset):
    # What MMPose's data sets describe themselves with; the last one is empty where a
    # data set draws no skeleton.
    metainfo = dict(
        dataset_name='toy',
        flip_pairs=[(0, 1)],
        keypoint_colors=np.arange(6, dtype=np.uint8).reshape(2, 3),
        sigmas=np.array([0.025, 0.035], np.float32),
        skeleton_link_colors=np.zeros(0, np.uint8),
    )

    def __init__(self, seed):
        self.inputs = torch.randn(4, 4, generator=torch.Generator().manual_seed(seed))

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        return dict(inputs=self.inputs[index])


def toy_runner(work_dir, *, wrapper='OptimWrapper', epochs=2, seed=0, **settings):
    """Build a Runner that trains a ToyModel, two iterations an epoch."""
    cfg = Config(
        dict(
            work_dir=str(work_dir),
            experiment_name=f'toy_{next(_numbers)}',
            train_cfg=dict(by_epoch=True, max_epochs=epochs),
            optim_wrapper=dict(
                type=wrapper,
                optimizer=dict(
                    type='AdamW', lr=0.01, betas=(0.9, 0.99), weight_decay=0.1
                ),
                paramwise_cfg=dict(bias_decay_mult=0.0),
                clip_grad=dict(max_norm=1.0),
            ),
            param_scheduler=[dict(type='CosineAnnealingLR', T_max=4)],
            **settings,
        )
    )
    return Runner(
        model=ToyModel(),
        train_dataloader=DataLoader(ToyDataset(seed), batch_size=2),
        cfg=cfg,
        **cfg,
    )


def main() -> None:
    import sapiens_plugin.registry  # noqa: F401  (saves as the plugin does)

    version = '.'.join(platform.python_version_tuple()[:2])
    name = f'python{version}_numpy{np.__version__}.pth'
    with tempfile.TemporaryDirectory() as folder:
        toy_runner(folder).train()
        Path(sys.argv[1], name).write_bytes(Path(folder, 'epoch_2.pth').read_bytes())


if __name__ == '__main__':
    main()
