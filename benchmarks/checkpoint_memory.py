"""Save and load a training checkpoint: MMEngine's own way beside the repaired one.

The state is that of a run with AdamW: weights and two moments, 12 bytes a parameter.
Each way of saving and of loading gets a process of its own. Memory is the peak resident
set above that before the model was made and above the state itself; seconds are until
the file is on the disk, or the state in the model and the optimizer. Both ways load a
file that was read just before.

Saving in MMEngine's way takes twice the state in memory: 7 GB at 0.3B, 27 GB at 1B,
where ``--ways repaired`` leaves it out.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from arch_option import add_arch

WAYS = ('mmengine', 'repaired')
TASKS = ('save', 'load')
SCRIPT = """
import json, os, re, sys, time
from pathlib import Path
import torch
from mmengine.optim import OptimWrapper
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner import load_checkpoint
from sapiens_plugin.core.vit.model import SapiensViT

task, way, arch, path = sys.argv[1:]
if way == 'repaired':
    from sapiens_plugin.compat.apply import apply
    apply()

def resident(figure):
    status = Path('/proc/self/status').read_text()
    return int(re.search(figure + r':\\s+(\\d+)', status)[1]) * 1024

before = resident('VmRSS')
vit = SapiensViT(json.loads(arch), img_size=(384, 288))
optimizer = torch.optim.AdamW(vit.parameters())
wrapper = OptimWrapper(optimizer)
start = time.perf_counter()
if task == 'save':
    for parameter in vit.parameters():
        optimizer.state[parameter] = dict(
            step=torch.tensor(1.0),
            exp_avg=torch.ones_like(parameter),
            exp_avg_sq=torch.ones_like(parameter),
        )
    start = time.perf_counter()
    content = dict(meta={}, state_dict=vit.state_dict(), optimizer=wrapper.state_dict())
    mmengine_checkpoint.save_checkpoint(content, path)
    with open(path, 'rb+') as file:
        os.fsync(file.fileno())
else:
    content = load_checkpoint(vit, path)
    wrapper.load_state_dict(content['optimizer'])
seconds = time.perf_counter() - start
state = sum(value.nbytes for value in vit.parameters())
for values in optimizer.state.values():
    state += sum(value.nbytes for value in values.values())
print(json.dumps(dict(
    seconds=seconds,
    state_gb=state / 1e9,
    extra_gb=(resident('VmHWM') - before - state) / 1e9,
)))
"""


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arch(parser, default='sapiens_1b')
    parser.add_argument('--ways', nargs='+', default=WAYS, choices=WAYS)
    parser.add_argument('--folder', type=Path, help='directory for the checkpoint')
    parser.add_argument('--json', type=Path, help='write all figures here')
    args = parser.parse_args()

    figures = {}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder, 'checkpoint.pth')
        for way in args.ways:
            figures[way] = {task: measure(task, way, args.arch, path) for task in TASKS}
    print_table(figures)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1), encoding='utf-8')


def measure(task: str, way: str, arch: str | dict, path: Path) -> dict[str, float]:
    """Save or load in a process of its own; return its figures."""
    if task == 'load':
        with open(path, 'rb') as file:
            while file.read(2**24):
                pass
    command = [sys.executable, '-c', SCRIPT, task, way, json.dumps(arch), str(path)]
    answer = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, timeout=1800
    )
    return json.loads(answer.stdout.splitlines()[-1])


def print_table(figures: dict[str, dict]) -> None:
    """Print the figures as Markdown, and ratios where both ways were taken."""
    state = next(iter(figures.values()))['save']['state_gb']
    print(f'A state of {state:.2g} GB:\n')
    print('| | save, s | extra memory | load, s | extra memory |')
    print('|---|---|---|---|---|')
    for way, tasks in figures.items():
        cells = [
            cell
            for task in TASKS
            for cell in (
                f'{tasks[task]["seconds"]:.1f}',
                f'{tasks[task]["extra_gb"]:.2f} GB',
            )
        ]
        print(f'| {way} |', ' | '.join(cells), '|')
    if len(figures) == len(WAYS):
        stock, ours = figures.values()
        cells = [
            f'{ours[task][key] / stock[task][key]:.2f}'
            for task in TASKS
            for key in ('seconds', 'extra_gb')
        ]
        print('| ratio |', ' | '.join(cells), '|')


if __name__ == '__main__':
    main()
