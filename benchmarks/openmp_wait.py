"""Time a small CPU training step beside a busy process, by how OpenMP threads wait.

Shows why the tools set OMP_WAIT_POLICY=PASSIVE: with as many busy processes as cores,
as when data-loading workers run, spinning threads keep each other from their core. The
two policies run in turn, each in a process of its own; prints medians and the ratio.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

STEP = """
import sys, time, torch
from sapiens_plugin.core.vit.model import SapiensViT
vit = SapiensViT(dict(embed_dims=128, num_layers=4, num_heads=4,
                      feedforward_channels=512), img_size=(128, 96))
images = torch.randn(16, 3, 128, 96)
times = []
for _ in range(int(sys.argv[1])):
    start = time.perf_counter()
    vit(images)[0].square().mean().backward()
    times.append(time.perf_counter() - start)
print(sorted(times)[len(times) // 2])
"""


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--runs', type=int, default=5)
    parser.add_argument('--steps', type=int, default=12, help='in each run')
    parser.add_argument('--json', type=Path, help='write all figures here')
    args = parser.parse_args()
    seconds = {'ACTIVE': [], 'PASSIVE': []}
    with subprocess.Popen([sys.executable, '-c', 'while True: pass']) as busy:
        try:
            for _ in range(args.runs):
                for policy, results in seconds.items():
                    answer = subprocess.run(
                        [sys.executable, '-c', STEP, str(args.steps)],
                        check=True,
                        capture_output=True,
                        timeout=300,
                        env={**os.environ, 'OMP_WAIT_POLICY': policy},
                    )
                    results.append(float(answer.stdout))
        finally:
            busy.kill()
    medians = {policy: statistics.median(times) for policy, times in seconds.items()}
    print('| OMP_WAIT_POLICY | ms a step |\n|---|---|')
    for policy, median in medians.items():
        print(f'| {policy} | {median * 1e3:.0f} |')
    print(f'| ratio | {medians["PASSIVE"] / medians["ACTIVE"]:.2f} |')
    if args.json:
        args.json.write_text(json.dumps(seconds, indent=1), encoding='utf-8')


if __name__ == '__main__':
    main()
