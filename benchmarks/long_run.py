"""Train the demo job for an hour: do memory, open files, threads and processes grow?

One process of tools/train.py trains without end on drawn people: some 18 epochs an hour
with a validation after each, checkpoints by epoch, by time and of the best. It and its
workers are looked at every few seconds. The first sixth is left out, where caches fill
and everything has not happened once yet. Of what follows, the medians of the first and
the last third are compared: a leak of a megabyte an epoch is 12 MiB in an hour.

    .venv/bin/python benchmarks/long_run.py --minutes 60
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import psutil

ROOT = Path(__file__).resolve().parents[1]
MIB = 2**20
FIGURES = ('resident_mib', 'open_files', 'threads', 'processes')


def main() -> None:
    """Train, watch, and print what grew."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--minutes', type=float, default=60.0)
    parser.add_argument('--every', type=float, default=5.0, help='seconds')
    parser.add_argument('--pictures', type=int, default=2000, help='to train on')
    parser.add_argument('--json', type=Path, help='write every look to a file')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        looks = watch(
            Path(folder),
            pictures=args.pictures,
            seconds=60 * args.minutes,
            every=args.every,
        )
    if args.json:
        args.json.write_text(json.dumps(looks, indent=1), encoding='utf-8')
    settled = looks[len(looks) // 6 :]
    third = max(len(settled) // 3, 1)
    epochs = looks[-1]['epochs']
    print(
        f'{len(looks)} looks in {args.minutes:g} min, {epochs} epochs and validations'
    )
    print(f'{"median of the":16}{"first third":>14}{"last third":>14}{"highest":>10}')
    for name in FIGURES:
        values = [look[name] for look in settled]
        print(
            f'{name:16}{median(values[:third]):>14,.0f}{median(values[-third:]):>14,.0f}'
            f'{max(values):>10,.0f}'
        )


def watch(
    folder: Path, *, pictures: int, seconds: float, every: float
) -> list[dict[str, float]]:
    """Train for some time, looking at the process and its children.

    Raises:
        RuntimeError: The training ended by itself.
    """
    data, work_dir = folder / 'data', folder / 'run'
    make = [sys.executable, '-m', 'sapiens_plugin.workbench.demo.make_demo', data]
    sizes = dict(train=pictures, val=max(3 * pictures // 20, 1))
    for split, count in sizes.items():
        make += [f'--num-{split}', str(count)]
    subprocess.run(make, check=True)
    loaders = [
        f'{split}_dataloader.dataset.data_root={data}' for split in ('train', 'val')
    ]
    archive = data / 'sapiens_tiny_torchscript.pt2'
    command = [
        *(sys.executable, ROOT / 'tools' / 'train.py'),
        *(ROOT / 'configs' / 'sapiens_tiny_demo.py', '--work-dir', work_dir),
        *('--cfg-options', *loaders, 'train_cfg.max_epochs=100000'),
        *('train_cfg.val_interval=1', 'default_hooks.checkpoint.interval=1'),
        'default_hooks.checkpoint.interval_minutes=1',
        'param_scheduler.2.end=100000',
        f'model.backbone.init_cfg.checkpoint={archive}',
    ]
    looks = []
    with open(folder / 'log', 'wb') as log:
        training = subprocess.Popen(
            list(map(str, command)), stdout=log, stderr=subprocess.STDOUT
        )
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(every)
            if training.poll() is not None:
                said = (folder / 'log').read_text(encoding='utf-8', errors='replace')
                raise RuntimeError(f'The training ended: {said[-3000:]}')
            looks.append(look_at(psutil.Process(training.pid), work_dir))
        training.send_signal(signal.SIGTERM)
        training.wait(timeout=300)
    finally:
        training.kill()
        training.wait()
    return looks


def look_at(process: psutil.Process, work_dir: Path) -> dict[str, float]:
    """Add up a process and its children."""
    family = [process, *process.children(recursive=True)]
    look = dict.fromkeys(FIGURES, 0.0) | dict(processes=len(family))
    for member in family:
        try:
            with member.oneshot():
                look['resident_mib'] += member.memory_info().rss / MIB
                look['open_files'] += member.num_fds()
                look['threads'] += member.num_threads()
        except psutil.NoSuchProcess:
            look['processes'] -= 1
    metrics = work_dir / 'metrics.csv'
    text = metrics.read_text(encoding='utf-8') if metrics.exists() else ''
    return look | dict(epochs=text.count(',validation,'))


if __name__ == '__main__':
    main()
