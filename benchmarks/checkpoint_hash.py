"""What the checksum in a checkpoint costs: hashes, saving, verifying.

Speeds of candidates are on one thread, in memory. Then a state of ``--gb`` is saved and
verified: by torch.save with fsync alone, and sealed. ``save_sealed`` hashes while the
disk writes, ``verify`` while it reads; the file is in the page cache when it is
verified, so that the disk is not what is measured.
"""

import argparse
import hashlib
import os
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import torch

from sapiens_plugin.core.checkpoints.sealed import save_sealed, sync, verify

HASHES = dict(
    blake2b=hashlib.blake2b, sha256=hashlib.sha256, md5=hashlib.md5, crc32=zlib.crc32
)


def main() -> None:
    """Print the figures as Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--gb', type=float, default=2.0, help='size of the state')
    parser.add_argument('--folder', type=Path, help='directory for the checkpoint')
    args = parser.parse_args()

    data = os.urandom(2**26)
    print('| hash | GB/s | 14 GB take |\n|---|---|---|')
    for name, function in HASHES.items():
        speed = len(data) / 1e9 / seconds(lambda f=function: f(data), repeats=5)
        print(f'| {name} | {speed:.2f} | {14 / speed:.0f} s |')

    count = int(args.gb * 1e9 / 4 / 64)
    state = {str(i): torch.randn(count) for i in range(64)}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder, 'checkpoint.pth')
        plain = seconds(lambda: save_plain(state, path), repeats=3)
        sealed = seconds(lambda: save_sealed(state, path), repeats=3)
        verified = seconds(lambda: verify_anew(path), repeats=3)
    print(f'\nA state of {args.gb:g} GB: torch.save and fsync {plain:.1f} s,')
    print(f'sealed {sealed:.1f} s, verified {verified:.1f} s.')


def save_plain(state: dict, path: Path) -> None:
    """Save as stock PyTorch would, but onto the disk."""
    with open(path, 'wb') as file:
        torch.save(state, file)
        sync(file)


def verify_anew(path: Path) -> None:
    """Verify a file though it has been verified."""
    os.utime(path)
    verify(path)


def seconds(work: Callable[[], object], *, repeats: int) -> float:
    """Return the shortest time of several."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == '__main__':
    main()
