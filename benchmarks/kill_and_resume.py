"""Kill a training again and again, and look whether it comes out the same.

A small job is trained by ``tools/train.py`` once without a disturbance. Then it is
trained anew many times, killed with SIGKILL at a random moment, and resumed to its end,
each start with another number of workers. Every time the final weights and the
optimizer's state have to equal those of the first run, bit for bit. The job saves a
checkpoint about each second; every other kill waits for the next save to begin.

    .venv/bin/python benchmarks/kill_and_resume.py --kills 100 --jobs 2

What is done is kept in ``OUT/kills.json``; the same command goes on from there.
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

import sapiens_plugin.registry  # noqa: E402, F401  (to read MMEngine's checkpoints)
from sapiens_plugin.core.checkpoints.loading import load_from_local  # noqa: E402
from sapiens_plugin.core.utils.whole_file import write_whole  # noqa: E402
from sapiens_plugin.workbench.demo.make_demo import make_demo  # noqa: E402

JOB = """
_base_ = {base!r}
model = dict(
    backbone=dict(
        arch=dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64),
        drop_path_rate=0.2,
        init_cfg=None,
    ),
    head=dict(
        in_channels=32, deconv_out_channels=(16, 16), conv_out_channels=(16,)
    ),
)
train_dataloader = dict(
    batch_size=2, num_workers=1, dataset=dict(data_root={data!r}, indices=31)
)
val_dataloader = dict(batch_size=2, dataset=dict(data_root={data!r}))
test_dataloader = dict(dataset=dict(data_root={data!r}))
# 16 batches, of which 15 make steps.
optim_wrapper = dict(accumulative_counts=3)
train_cfg = dict(max_epochs={epochs}, val_interval=2)
param_scheduler = [
    dict(
        type='CosineAnnealingLR', end={epochs}, eta_min=1e-4, convert_to_iter_based=True
    )
]
default_hooks = dict(
    logger=dict(interval=1),
    checkpoint=dict(
        type='sapiens_plugin.CheckpointHook',
        interval=1,
        max_keep_ckpts=2,
        interval_minutes=1 / 60,
    ),
)
visualizer = dict(vis_backends=[dict(type='LocalVisBackend')])
"""


def main() -> int:
    """Run what is missing of the kills, and tell of all; 1 if one has left a trace."""
    args = parse_args()
    out = args.out
    out.mkdir(parents=True, exist_ok=True)
    if not (out / 'demo').is_dir():
        make_demo(out / 'demo', num_train=32, num_val=8)
    write_whole(
        out / 'job.py',
        JOB.format(
            base=str(REPO / 'configs' / 'sapiens_tiny_demo.py'),
            data=str(out / 'demo'),
            epochs=args.epochs,
        ),
    )
    path = out / 'kills.json'
    done = json.loads(path.read_text('utf-8')) if path.exists() else {}
    if done.get('epochs', args.epochs) != args.epochs:
        sys.exit(f'{path} is about {done["epochs"]} epochs; name another --out.')
    if 'reference' not in done:
        started = time.monotonic()
        run(out, 'reference', workers=1)
        done = dict(
            epochs=args.epochs,
            seconds=time.monotonic() - started,
            reference=digest(out / 'reference'),
            kills=[],
        )
        write_whole(path, json.dumps(done, indent=1))
    print(f'Undisturbed, the job takes {done["seconds"]:.0f} s.', flush=True)
    first = len(done['kills'])
    with ThreadPoolExecutor(args.jobs) as pool:
        kills = [
            pool.submit(kill_and_resume, args, number, done)
            for number in range(first, args.kills)
        ]
        for future in as_completed(kills):
            kill = future.result()
            done['kills'].append(kill)
            write_whole(path, json.dumps(done, indent=1))
            print(
                f'{len(done["kills"]):4}: killed after {kill["after"]:.1f} s in '
                f'{kill["stage"]}, '
                + ('the same in the end' if kill['same'] else 'NOT THE SAME: ')
                + ('' if kill['same'] else kill['work_dir']),
                flush=True,
            )
    return tell(done['kills'])


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--kills', type=int, default=100)
    parser.add_argument('--jobs', type=int, default=1, help='runs at a time')
    parser.add_argument('--epochs', type=int, default=24, help='length of the job')
    parser.add_argument('--seed', type=int, default=0, help='of the moments')
    parser.add_argument(
        '--earliest', type=float, default=0, help='moment, as a share of the job'
    )
    parser.add_argument(
        '--out', type=Path, default=Path('kill_and_resume'), help='files go here'
    )
    args = parser.parse_args()
    args.out = args.out.resolve()
    return args


def kill_and_resume(args: argparse.Namespace, number: int, done: dict) -> dict:
    """Train, be killed, resume to the end."""
    draw = random.Random(f'{args.seed} {number}')
    out, name = args.out, f'kill_{number}'
    while True:
        shutil.rmtree(out / name, ignore_errors=True)
        after = done['seconds'] * draw.uniform(args.earliest, 1)
        if run(
            *(out, name),
            workers=draw.randrange(3),
            kill_after=after,
            in_save=number % 2 == 1,
        ):
            break  # else it was over before
    stage = stage_of(out, name)
    run(out, name, '--resume', workers=draw.randrange(3))
    same = digest(out / name) == done['reference']
    if same:
        shutil.rmtree(out / name)
    return dict(after=after, stage=stage, same=same, work_dir=str(out / name))


def run(
    out: Path,
    name: str,
    *flags: str,
    workers: int,
    kill_after: float | None = None,
    in_save: bool = False,
) -> bool:
    """Train in ``OUT/NAME``; return whether the run had to be killed."""
    command = [
        sys.executable,
        str(REPO / 'tools' / 'train.py'),
        str(out / 'job.py'),
        f'--work-dir={out / name}',
        *flags,
        '--cfg-options',
        f'train_dataloader.num_workers={workers}',
    ]
    log = out / f'{name}.log'
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'OMP_WAIT_POLICY': 'PASSIVE'}
    with open(log, 'wb') as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=env)
        try:
            code = process.wait(kill_after)
        except subprocess.TimeoutExpired:
            while in_save and not list((out / name).glob('*.part')):
                if process.poll() is not None:
                    return False
                time.sleep(0.0005)
            process.kill()
            process.wait()
            return True
    if code:
        sys.exit(f'{name} ended with {code}; see {log}')
    return False


def stage_of(out: Path, name: str) -> str:
    """Tell what a killed run was doing."""
    if list((out / name).glob('*.part')):
        return 'a save'
    stage = 'start-up'
    for line in (out / f'{name}.log').read_text('utf-8').splitlines():
        if re.search(r'\| epoch \d+/\d+ \| step', line):
            stage = 'training'
        elif 'Epoch(val)' in line:
            # The line that sums a validation up ends it.
            stage = 'training' if 'coco/AP' in line else 'a validation'
    return stage


def digest(work_dir: Path) -> str:
    """Sum up the weights and the optimizer's state that a run has ended with."""
    path = Path((work_dir / 'last_checkpoint').read_text('utf-8').strip())
    checkpoint = load_from_local(path)
    told = hashlib.sha256(path.name.encode())
    for name, value in sorted(checkpoint['state_dict'].items()):
        told.update(name.encode() + value.numpy().tobytes())
    for key, state in sorted(checkpoint['optimizer']['state'].items()):
        for name, value in sorted(state.items()):
            told.update(f'{key} {name}'.encode() + value.numpy().tobytes())
    return told.hexdigest()


def tell(kills: list[dict]) -> int:
    """Print a summary; return the exit code."""
    print(f'\n{"killed in":14}{"times":>6}{"the same":>10}')
    for stage, count in Counter(kill['stage'] for kill in kills).most_common():
        same = sum(kill['same'] for kill in kills if kill['stage'] == stage)
        print(f'{stage:14}{count:6}{same:10}')
    same = sum(kill['same'] for kill in kills)
    print(f'{"":14}{len(kills):6}{same:10}')
    return int(same < len(kills))


if __name__ == '__main__':
    sys.exit(main())
