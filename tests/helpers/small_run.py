"""A work directory as a short training leaves it, in a second and without training."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from sapiens_plugin.core.coco.keypoints import (
    KEYPOINT_NAMES,
    SKELETON,
    person_category,
)
from sapiens_plugin.workbench.report.kept_validation import KeptValidation

SIGMAS = [0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062]
SIGMAS += [0.107, 0.107, 0.087, 0.087, 0.089, 0.089]
LENGTH = 100  # iterations an epoch
EPOCHS, WARMUP = 4, 1

CONFIG = f"""
default_hooks = dict(
    phase_switch=dict(type='sapiens_plugin.PhaseSwitchHook', warmup_epochs={WARMUP}),
    pictures=None)
data_root = 'data/coco'
model = dict(
    backbone=dict(arch='sapiens_1b', img_size=(384, 288)),
    type='TopdownPoseEstimator')
optim_wrapper = dict(accumulative_counts=2, optimizer=dict(lr=0.0005, type='AdamW'))
train_cfg = dict(by_epoch=True, max_epochs={EPOCHS})
unusual = dict(limit=inf)
"""
LOG = """2026/01/01 00:00:00 - mmengine - INFO -
------------------------------------------------------------
System environment:
    sys.platform: linux
    Python: 3.11.7 (main)
    GPU 0: NVIDIA GeForce GTX 1650 with Max-Q Design
    PyTorch: 2.13.0+cu130
    MMEngine: 0.10.7

Runtime environment:
    OpenCV: not this one
"""


def train_record(iteration: int) -> dict:
    """Half a second an iteration of phase 1, a second after it."""
    epoch = (iteration - 1) // LENGTH + 1
    return {
        'loss': 4.0 / iteration**0.5,
        'base_lr': 1e-3 / epoch,
        'lr': 1e-5 / epoch,
        'time': 0.5 if epoch <= WARMUP else 1.0,
        'memory': 3000 + epoch,
        'host_memory_mib': 2048,
        'epoch': epoch,
        'iter': iteration,
        'step': iteration,
    }


def validation_record(epoch: int) -> dict:
    ap = 0.2 * epoch
    return {'coco/AP': ap, 'coco/AP .5': ap + 0.1, 'time': 0.2, 'step': epoch}


def write_start(work_dir: Path, stamp: str, records: list[dict]) -> Path:
    folder = work_dir / stamp
    (folder / 'vis_data').mkdir(parents=True)
    lines = [json.dumps(record) + '\n' for record in records]
    (folder / 'vis_data' / 'scalars.json').write_text(''.join(lines), encoding='utf-8')
    (folder / 'vis_data' / 'config.py').write_text(CONFIG, encoding='utf-8')
    (folder / f'{stamp}.log').write_text(LOG, encoding='utf-8')
    return folder


def epoch_records(epoch: int, *, validate: bool = True) -> list[dict]:
    """Every 40th iteration is logged, so the last 20 of an epoch are not."""
    begin = (epoch - 1) * LENGTH
    records = [train_record(begin + 40), train_record(begin + 80)]
    return records + [validation_record(epoch)] * validate


def write_run(work_dir: Path, *, epochs: int = EPOCHS, validate: bool = True) -> Path:
    """Write a run that was resumed once, after its second epoch."""
    for stamp, part in (
        ('20260101_000000', range(1, min(epochs, 2) + 1)),
        ('20260102_000000', range(3, epochs + 1)),
    ):
        records = [r for e in part for r in epoch_records(e, validate=validate)]
        if records:
            write_start(work_dir, stamp, records)
    (work_dir / f'epoch_{epochs}.pth').write_bytes(bytes(3_000_000))
    return work_dir


def make_plan() -> dict:
    phases = [
        {'name': 'head alone', 'epochs': 1, 'tflop_per_step': 1.0,
         'seconds_per_step': 0.8, 'hours_per_epoch': 0.01, 'hours': 0.01},
        {'name': 'everything', 'epochs': 3, 'tflop_per_step': 2.0,
         'seconds_per_step': 4.0, 'hours_per_epoch': 0.05, 'hours': 0.15},
    ]  # fmt: skip
    return {
        'card': 'gtx1650',
        'vram_peak_mib': 6008,
        'host_ram_gib': 4.0,
        'disk_gib': 28.5,
        'phases': phases,
        'validation_hours': 0.02,
        'total_hours': 0.18,
        'floor_hours': 0.125,
        'alternatives': [],
    }


def write_validation(work_dir: Path, data: Path, *, persons: int = 20) -> None:
    """Write images with a person each, and predictions that get worse person by person.

    Person N is N px off; the last one has no prediction.
    """
    rng = np.random.default_rng(0)
    (data / 'images').mkdir(parents=True)
    images, annotations, results = [], [], []
    for number in range(persons):
        name = f'{number:06d}.jpg'
        pixels = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((200, 220))
        image.save(data / 'images' / name)
        places = rng.uniform((60, 40), (140, 180), (17, 2))
        images.append({'id': number, 'file_name': name, 'width': 200, 'height': 220})
        annotations.append(
            {
                'id': 100 + number,
                'image_id': number,
                'category_id': 1,
                'iscrowd': 0,
                'bbox': [55, 35, 90, 150],
                'area': (40 + 10 * number) ** 2,
                'num_keypoints': 17,
                'keypoints': [v for x, y in places.tolist() for v in (x, y, 2)],
            }
        )
        if number < persons - 1:
            moved = (places + np.array([number, 0])).tolist()
            results.append(
                {
                    'image_id': number,
                    'category_id': 1,
                    'keypoints': [v for x, y in moved for v in (x, y, 0.9)],
                    'score': 0.9 - number / 100,
                }
            )
    dataset = {
        'images': images,
        'annotations': annotations,
        'categories': [person_category()],
    }
    (data / 'val.json').write_text(json.dumps(dataset), encoding='utf-8')
    index = {name: number for number, name in enumerate(KEYPOINT_NAMES)}
    KeptValidation(
        epoch=4,
        seconds=36.0,
        metrics={'coco/AP': 0.8},
        annotations=str(data / 'val.json'),
        images=str(data / 'images'),
        keypoints=list(KEYPOINT_NAMES),
        sigmas=SIGMAS,
        skeleton=[[index[a], index[b]] for a, b in SKELETON],
        results=results,
    ).write(work_dir)
