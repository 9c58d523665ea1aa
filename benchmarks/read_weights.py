"""Lift a Sapiens-1B archive, beside what ``torch.jit.load`` takes to open it.

Makes a stand-in of the published size and structure (4.7 GB; kept in --file), then runs
each way of reading in a process of its own, in turn, and prints medians and the ratio.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

# Both fill the same model; time and memory of making it are not counted.
SCRIPT = """
import json, resource, sys, time, warnings
import torch
from sapiens_plugin.vit.model import SapiensViT
from sapiens_plugin.vit.lifting import load_backbone

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

way, path = sys.argv[1:]
vit = SapiensViT('sapiens_1b', img_size=(384, 288))
for parameter in vit.parameters():
    parameter.data.fill_(1)  # so that every page is counted before
before, start = peak(), time.perf_counter()
if way == 'lifted':
    load_backbone(vit, path)
else:
    warnings.simplefilter('ignore')
    state = torch.jit.load(path, map_location='cpu').backbone.state_dict()
    own = vit.state_dict()
    for name in own.keys() - {'pos_embed'}:
        own[name].copy_(state[name])
print(json.dumps(dict(seconds=time.perf_counter() - start,
                      extra_gib=(peak() - before) / 2**20)))
"""


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--file', type=Path, default='data/stand_in_1b.pt2')
    parser.add_argument('--runs', type=int, default=3)
    parser.add_argument('--json', type=Path, help='write all figures here')
    args = parser.parse_args()
    if not args.file.exists():
        from sapiens_plugin.data.stand_in import make_stand_in

        print('Making the stand-in: some minutes, 4.7 GB of disk, 11 GB of memory.')
        make_stand_in(args.file, arch='sapiens_1b')

    figures = {'lifted': [], 'torch.jit.load': []}
    for _ in range(args.runs):
        for way, results in figures.items():
            answer = subprocess.run(
                [sys.executable, '-c', SCRIPT, way, str(args.file)],
                check=True,
                capture_output=True,
                timeout=600,
            )
            results.append(json.loads(answer.stdout))
    medians = {
        way: {key: statistics.median(r[key] for r in results) for key in results[0]}
        for way, results in figures.items()
    }
    print('| | seconds | extra memory |\n|---|---|---|')
    for way, row in medians.items():
        print(f'| {way} | {row["seconds"]:.1f} | {row["extra_gib"]:.2f} GiB |')
    ours, theirs = medians.values()
    print(f'| ratio | {ours["seconds"] / theirs["seconds"]:.2f} | '
          f'{ours["extra_gib"] / theirs["extra_gib"]:.2f} |')  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1), encoding='utf-8')


if __name__ == '__main__':
    main()
