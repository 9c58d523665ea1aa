"""Print the memory that streamed jobs take: on the GPU, and in the host.

From the memory model of sapiens_plugin.core.streaming; nothing is allocated and no GPU
is needed. What PyTorch allocates on the GPU is counted; the CUDA context, 300 to 450
MiB, comes on top. So does the program itself in host memory: 1.3 GB with COCO's
annotations.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

import sapiens_plugin.registry  # noqa: F401  (makes the names known)
from sapiens_plugin.core.streaming import memory

CONFIGS = Path(__file__).parents[1] / 'configs'
CAPABILITY = (7, 5)  # a GTX 1650's
NAMES = (
    'sapiens1b_gtx1650',
    'sapiens1b_minimal',
    'sapiens2b_gtx1650',
    'sapiens1b_gtx1650_week',
    'sapiens0.3b_gtx1650_week',
)


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--budget', type=int, help='MiB; default: that of the config')
    parser.add_argument('--json', type=Path, help='write the figures there, too')
    args = parser.parse_args()
    init_default_scope('mmpose')
    rows = [
        row
        for name in NAMES
        for mode in ('compact', 'exact')
        for row in measure(name, mode, args.budget)
    ]
    print('| config | mode | pass | GPU, MiB | layout | host, GB |')
    print('|---|---|---|---|---|---|')
    for row in rows:
        print(
            '| {config} | {mode} | {job} | {gpu_mib:.0f} | {layout} | {host_gb:.1f} |'
            .format(**row)
        )  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2), encoding='utf-8')


def measure(name: str, mode: str, budget: int | None) -> list[dict]:
    """Return the figures of one config's phases and of its tests."""
    from mmpose.registry import MODELS

    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    cfg.model.mode = mode
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    budget = budget or model.vram_budget
    size = tuple(cfg.model.backbone.img_size)
    rows = []
    for job_name, frozen, split in (
        ('phase 1', True, 'train'),
        ('phase 2', False, 'train'),
        ('test', False, 'test'),
    ):
        training = split == 'train'
        model.backbone.set_frozen(frozen)
        batch = cfg[f'{split}_dataloader'].batch_size
        job = replace(
            model.memory_step(batch, size, training=training),
            workspace_bytes=memory.workspace_bytes(CAPABILITY),
        )
        layout = memory.plan_layout(job, budget_mib=budget, training=training)
        predict = memory.training_memory if training else memory.inference_memory
        params = list(model.parameters())
        host = memory.host_memory(
            num_params=sum(p.numel() for p in params),
            num_trainable=sum(p.numel() for p in params if p.requires_grad) * training,
            gradient_dtype=model.gradient_dtype,
            moment_dtype=model.moment_dtype,
            boundary_bytes=memory.host_boundary_bytes(job, layout) * training,
        )
        described = f'{layout.slots} of {job.num_blocks} blocks'
        if training and not frozen:
            place = 'host' if layout.boundaries_on_host else 'GPU'
            described += f', boundaries every {layout.spacing} on the {place}'
        rows.append(
            dict(
                config=name,
                mode=mode,
                job=job_name,
                gpu_mib=predict(job, layout).total / memory.MIB,
                layout=described,
                host_gb=host.total / 1e9,
            )
        )
    return rows


if __name__ == '__main__':
    main()
