"""Verify very many small files, beside ``unzip -t`` of the same files in one archive.

Makes the files and a stored zip of them in a temporary folder, then runs both ways in
turn, each in a process of its own that reads everything and compares CRCs; prints
medians, the ratio and peak memory (never below the 15 MiB of this script itself). With
--cold, nothing of the files is in memory before a run (Linux); else everything is,
where it fits.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from pathlib import Path

from download_coco import apart

CHECK = """
import sys
from pathlib import Path
from sapiens_plugin.core.images.check import Expected, check_images

def expected():
    with open('index.txt') as lines:
        for line in lines:
            name, size, crc = line.split()
            yield Expected(name, int(size), int(crc))

faults = list(check_images(Path('images'), expected()))
sys.exit(f'{len(faults)} files are not right' if faults else 0)
"""
WAYS = {
    'check_images': [sys.executable, '-c', CHECK],
    'unzip -tq': ['unzip', '-tq', 'images.zip'],
}


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--files', type=int, default=100_000)
    parser.add_argument('--kilobytes', type=float, default=10, help='mean size of one')
    parser.add_argument('--cold', action='store_true', help='drop files from memory')
    parser.add_argument('--runs', type=int, default=5)
    parser.add_argument('--json', type=Path, help='write all figures here')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        apart(make_files, Path(folder), args.files, args.kilobytes * 1e3)
        figures = {way: [] for way in WAYS}
        for _ in range(args.runs):
            for way, command in WAYS.items():
                if args.cold:
                    apart(drop_from_memory, Path(folder))
                figures[way].append(run(command, Path(folder)))
    print_table(figures, args.files)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1), encoding='utf-8')


def make_files(folder: Path, count: int, mean: float) -> None:
    """Write ``images/``, the same as ``images.zip``, and their CRCs."""
    rng = random.Random(0)
    pool = rng.randbytes(int(4 * mean))
    (folder / 'images').mkdir()
    with (
        zipfile.ZipFile(folder / 'images.zip', 'w') as archive,
        open(folder / 'index.txt', 'w') as index,
    ):
        for number in range(count):
            start, size = (
                rng.randrange(int(2 * mean)),
                int(rng.uniform(0.5, 1.5) * mean),
            )
            data = pool[start : start + size]
            path = folder / 'images' / f'{number:012d}.jpg'
            path.write_bytes(data)
            archive.writestr(f'images/{path.name}', data)
            print(path.name, len(data), zlib.crc32(data), file=index)
    if hasattr(os, 'sync'):
        os.sync()


def drop_from_memory(folder: Path) -> None:
    """Let the system forget what it has read or written of every file."""
    for path in folder.rglob('*'):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def run(command: list[str], folder: Path) -> dict[str, float]:
    """Run a command; return seconds and MiB at its peak."""
    repo = str(Path(__file__).parents[1])
    start = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        env={**os.environ, 'PYTHONPATH': repo},
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f'{command[0]} ended with {process.returncode}')
    return {'seconds': seconds, 'peak_mib': usage.ru_maxrss / 1024}


def print_table(figures: dict[str, list[dict[str, float]]], files: int) -> None:
    """Print medians and their ratio."""
    print('| way | files/s | peak memory |\n|---|---|---|')
    speeds = []
    for way, runs in figures.items():
        speeds.append(files / statistics.median(run['seconds'] for run in runs))
        memory = max(run['peak_mib'] for run in runs)
        print(f'| {way} | {speeds[-1]:,.0f} | {memory:.0f} MiB |')
    print(f'| ratio | {speeds[0] / speeds[1]:.2f} | |')


if __name__ == '__main__':
    main()
