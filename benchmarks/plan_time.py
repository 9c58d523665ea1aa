"""Compare planned with timed training steps, on this CPU.

Models from tiny to middle, a step (forward, backward, AdamW) of each beside what the
time model says from a probe of matrix products and passes. Probe and steps take turns,
on one thread and in processor time, so that other programs on the machine disturb
little. With --images, the loader's time for a person is measured, too.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from sapiens_plugin.core.vit.architectures import get_architecture
from sapiens_plugin.jobs.read_config import planned_job
from sapiens_plugin.workbench.job.job import Persons
from sapiens_plugin.workbench.planning.arithmetic import training_work
from sapiens_plugin.workbench.planning.machine_probe import probe_machine

CONFIGS = Path(__file__).parents[1] / 'configs'
# Name, dims, layers, heads, input in px, channels of the head, images.
MODELS = (
    ('tiny', 128, 4, 4, (128, 96), 64, 16),
    ('small', 384, 12, 6, (128, 96), 128, 8),
    ('base', 768, 12, 12, (128, 96), 256, 4),
    ('middle', 768, 12, 12, (256, 192), 256, 2),
)
PERSONS = Persons(train=1, val=1, test=1)


def main() -> None:
    """Print a table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = [model[0] for model in MODELS]
    parser.add_argument('--models', nargs='+', choices=names, default=names)
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument(
        '--images', type=Path, metavar='ROOT', help='of COCO, or like it'
    )
    parser.add_argument('--ann-file', help='annotation file in ROOT')
    parser.add_argument('--json', type=Path, help='write the figures there, too')
    args = parser.parse_args()
    torch.set_num_threads(1)
    init_default_scope('mmpose')
    rows = [
        compare(*model, rounds=args.rounds)
        for model in MODELS
        if model[0] in args.models
    ]
    print('| model | measured s | planned s | planned / measured | floor s |')
    print('|---|---|---|---|---|')
    for row in rows:
        print(
            '| {name} | {measured:.3f} | {planned:.3f} | {ratio:.2f} | {floor:.3f} |'
            .format(**row)
        )  # fmt: skip
    if args.images:
        seconds = time_loader(args.images, args.ann_file)
        print(f'\nLoader: {1000 * seconds:.1f} ms a person')
        rows.append(dict(name='loader', measured=seconds))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2), encoding='utf-8')


def compare(name, dims, layers, heads, img_size, channels, batch, *, rounds) -> dict:
    """Time a step of a model, and plan it, in turns."""
    from mmpose.registry import MODELS as BUILDERS

    cfg = Config.fromfile(CONFIGS / 'sapiens_tiny_demo.py')
    arch = dict(
        embed_dims=dims,
        num_layers=layers,
        num_heads=heads,
        feedforward_channels=4 * dims,
    )
    cfg.model.backbone.update(arch=arch, img_size=img_size, init_cfg=None)
    cfg.model.head.update(
        in_channels=dims,
        deconv_out_channels=(channels, channels),
        conv_out_channels=(channels,),
    )
    model = BUILDERS.build(cfg.model).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    images = torch.randn(batch, 3, *img_size)

    def step() -> None:
        model.head(model.backbone(images)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    job = planned_job(cfg, PERSONS)
    job = replace(job, arch=get_architecture(arch), batch=batch)
    work = batch * training_work(job, warmup=False, recomputed=0)
    params = sum(p.numel() for p in model.parameters())
    step()
    measured, planned, floors = [], [], []
    for _ in range(rounds):
        card = probe_machine(time.process_time)
        floors.append(work.flop / card.speed(torch.float32))
        passes = work.passes + 28 * params
        planned.append(floors[-1] + passes / (card.memory_gb_s * 1e9))
        start = time.process_time()
        step()
        measured.append(time.process_time() - start)
    ratios = [plan / real for plan, real in zip(planned, measured, strict=True)]
    return dict(
        name=name,
        measured=median(measured),
        planned=median(planned),
        ratio=median(ratios),
        floor=median(floors),
        parameters=params,
    )


def time_loader(root: Path, ann_file: str) -> float:
    """Return the processor time of one person in the real job's training pipeline."""
    from mmpose.registry import DATASETS

    cfg = Config.fromfile(CONFIGS / 'sapiens1b_gtx1650.py')
    dataset = cfg.train_dataloader.dataset
    dataset.update(data_root=str(root), ann_file=ann_file, data_prefix=dict(img=''))
    dataset = DATASETS.build(dataset)
    dataset[0]
    times = []
    for i in range(60):
        start = time.process_time()
        dataset[i % len(dataset)]
        times.append(time.process_time() - start)
    return sum(times) / len(times)


if __name__ == '__main__':
    main()
