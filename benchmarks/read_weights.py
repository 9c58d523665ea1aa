"""Lift a Sapiens-1B archive, beside what ``torch.jit.load`` takes to open it; start up.

Makes a stand-in of the published size and structure (4.7 GB; kept in --file), then runs
each way in a process of its own, in turn, and prints medians and ratios. First, reading
into a model that is there. Second, start-up: making the model and reading into it,
memory above imports and above the model's own. Linux only: memory is the peak of the
process as /proc has it. (That of getrusage begins with the peak of the parent.)
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from arch_option import add_arch

COMMON = f"""
import json, sys, time, warnings
sys.path.insert(0, {str(Path(__file__).parent)!r})
import torch
from tree_memory import own_peak_mib
from sapiens_plugin.core.vit.model import SapiensViT
from sapiens_plugin.core.vit.lifting import load_backbone

def make():
    return SapiensViT(json.loads(arch), img_size=(384, 288))

way, path, arch = sys.argv[1:]
"""
# Both fill the same model; time and memory of making it are not counted.
READ = """
vit = make()
for parameter in vit.parameters():
    parameter.data.fill_(1)  # so that every page is counted before
before, start = own_peak_mib(), time.perf_counter()
if way == 'lifted':
    load_backbone(vit, path)
else:
    warnings.simplefilter('ignore')
    state = torch.jit.load(path, map_location='cpu').backbone.state_dict()
    own = vit.state_dict()
    for name in own.keys() - {'pos_embed'}:
        own[name].copy_(state[name])
print(json.dumps(dict(seconds=time.perf_counter() - start,
                      extra_gib=(own_peak_mib() - before) / 2**10)))
"""
START_UP = """
before, start = own_peak_mib(), time.perf_counter()
vit = make()
load_backbone(vit, path)
model = sum(parameter.nbytes for parameter in vit.parameters())
print(json.dumps(dict(seconds=time.perf_counter() - start,
                      extra_gib=(own_peak_mib() - before) / 2**10 - model / 2**30)))
"""
COMPARISONS = {
    'Reading': (READ, ('lifted', 'torch.jit.load')),
    'Start-up': (START_UP, ('make and lift',)),
}


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--file', type=Path, default='data/stand_in_1b.pt2')
    add_arch(parser, default='sapiens_1b')
    parser.add_argument('--runs', type=int, default=3)
    parser.add_argument('--json', type=Path, help='write all figures here')
    args = parser.parse_args()
    if not args.file.exists():
        from sapiens_plugin.workbench.demo.stand_in import make_stand_in

        if args.arch == 'sapiens_1b':
            print('Making the stand-in: some minutes, 4.7 GB of disk, 11 GB of memory.')
        make_stand_in(args.file, arch=args.arch)

    figures = {
        title: measure(COMMON + script, ways, args)
        for title, (script, ways) in COMPARISONS.items()
    }
    for title, results in figures.items():
        print_table(title, results)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1), encoding='utf-8')


def measure(script: str, ways: tuple, args: argparse.Namespace) -> dict[str, list]:
    """Run each way in turn, each time in a process of its own."""
    results = {way: [] for way in ways}
    for _ in range(args.runs):
        for way in ways:
            answer = subprocess.run(
                [sys.executable, '-c', script, way, args.file, json.dumps(args.arch)],
                check=True,
                stdout=subprocess.PIPE,
                timeout=600,
            )
            results[way].append(json.loads(answer.stdout))
    return results


def print_table(title: str, results: dict[str, list[dict]]) -> None:
    """Print medians, and the first way's over the second's where there are two."""
    print(f'\n| {title} | seconds | extra memory |\n|---|---|---|')
    medians = [
        {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for runs in results.values()
    ]
    for way, row in zip(results, medians, strict=True):
        print(f'| {way} | {row["seconds"]:.1f} | {row["extra_gib"]:.2f} GiB |')
    if len(medians) == 2:
        ours, theirs = medians
        ratios = (
            # Of a small file what is read may stay within what was freed before.
            f'{ours[key] / theirs[key]:.2f}' if theirs[key] else '–'
            for key in ours
        )
        print('| ratio |', ' | '.join(ratios), '|')


if __name__ == '__main__':
    main()
