"""Bring archives of COCO's proportions from a local server, beside ``curl`` and unzip.

Makes the archives in a temporary folder and serves them from another process, as fast
as it can or held down to a line's rate and latency. The ways run in turn, each in
processes of its own, from nothing to everything in place.

speed: images of COCO's mean size, a --scale-th of their number. Seconds until the
processes end and until all is on the disk, bytes served, ratios to ``curl``.

memory: COCO's number of images and of annotations, but small images; the command line
tool's peak, of a download and of --verify after it.

Latency is a pause before each answer and each connection: that a real connection starts
slowly, curl's single one most of all, is left out.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

REPO = Path(__file__).parents[1]

TRAIN, VAL = 118_287, 5_000  # images
WITH_KEYPOINTS = {'train2017': 56_599, 'val2017': 2_346}
PEOPLE = {'train2017': 262_465, 'val2017': 11_004}
IMAGE = 163_000  # bytes, the mean
SMALL_IMAGE = 2_000  # where only their number matters
OTHER_ANNOTATIONS = 180_000_000  # bytes of the archive that a keypoint job leaves alone
ARCHIVES = (
    'zips/train2017.zip',
    'zips/val2017.zip',
    'annotations/annotations_trainval2017.zip',
)
PARTS = ('speed', 'memory')
LINES = {  # bytes a second, seconds
    'no limit': (None, 0.0),
    '1 Gbit/s': (125e6, 0.0),
    '1 Gbit/s, 50 ms': (125e6, 0.05),
}

# The tool itself insists on the published number of images.
BRING = """
import sys
from dataclasses import replace
from pathlib import Path
from sapiens_plugin.workbench.download.coco import Order, bring
from sapiens_plugin.core.coco.layout import ANNOTATIONS, TRAIN, VAL

root, server, train, val, *flags = sys.argv[1:]
parts = (
    replace(ANNOTATIONS, size=None),
    replace(VAL, images=int(val), size=None),
    replace(TRAIN, images=int(train), size=None),
)
order = dict(root=Path(root), server=server, parts=parts, detections=False)
bring(Order(**order, **dict.fromkeys(flags, True)))
"""


# The tool as it is, but for archives that have other sizes than the published ones.
TOOL = f"""
import runpy, sys
from dataclasses import replace
from sapiens_plugin.core.coco import layout
for name in ('ANNOTATIONS', 'TRAIN', 'VAL'):
    setattr(layout, name, replace(getattr(layout, name), size=None))
sys.path.insert(0, {str(REPO / 'tools')!r})
sys.argv[0] = {str(REPO / 'tools' / 'download_coco.py')!r}
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def main() -> None:
    """Run the parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=PARTS)
    parser.add_argument('--scale', type=int, default=20, help='of speed')
    parser.add_argument('--lines', nargs='+', choices=LINES, default=[*LINES])
    parser.add_argument('--runs', type=int, default=3)
    parser.add_argument('--json', type=Path, help='write all figures here')
    args = parser.parse_args()
    figures = {}
    for part in args.parts:
        with tempfile.TemporaryDirectory() as folder:
            if part == 'speed':
                figures[part] = measure_speed(Path(folder), args)
            else:
                figures[part] = measure_memory(Path(folder))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1), encoding='utf-8')


def measure_speed(folder: Path, args: argparse.Namespace) -> dict:
    """Run every way over every line, in turn."""
    train, val = TRAIN // args.scale, VAL // args.scale
    apart(make_archives, folder / 'served', train, val, IMAGE, args.scale)
    target = folder / 'target'

    def bring(*flags: str) -> Callable[[str], list[list[str]]]:
        order = [str(train), str(val), *flags]
        return lambda url: [[sys.executable, '-c', BRING, str(target), url, *order]]

    def unzip(url: str) -> list[list[str]]:
        commands = curl(target)(url)
        for path in ARCHIVES:
            into = target / 'images' if path.startswith('zips') else target
            archive = target / Path(path).name
            commands.append(['unzip', '-q', str(archive), '-d', str(into)])
        return commands

    ways = {
        'curl': curl(target),
        'curl, unzip': unzip,
        'bring': bring(),
        'bring, keep_archives': bring('keep_archives'),
        'bring, keypoints_only': bring('keypoints_only'),
    }
    figures = {line: {way: [] for way in ways} for line in args.lines}
    for line, results in figures.items():
        rate, latency = LINES[line]
        with served(folder / 'served', rate=rate, latency=latency) as server:
            for _ in range(args.runs):
                for way, commands in ways.items():
                    results[way].append(run(commands(server.url), server, target))
        print_speed(line, results)
    return figures


def measure_memory(folder: Path) -> dict:
    """Run the command line tool on as many images as COCO has."""
    apart(make_archives, folder / 'served', TRAIN, VAL, SMALL_IMAGE, 1)
    target = folder / 'target'
    tool = [sys.executable, '-c', TOOL, '--root', str(target), '--no-detections']
    figures = {}
    with served(folder / 'served', rate=None, latency=0) as server:
        for flags in ([], ['--keypoints-only'], ['--keep-archives']):
            download = [*tool, *flags, '--mirror', server.url]
            figures[' '.join(flags) or 'all'] = run(
                [download, [*tool, '--verify']], server, target
            )
    size = sum((folder / 'served' / path).stat().st_size for path in ARCHIVES)
    title = f'{TRAIN + VAL:,} images, {size / 1e9:.2f} GB'
    print(f'\n| {title}; then --verify | seconds | peak memory |')
    print('|---|---|---|')
    for flags, one in figures.items():
        print(f'| {flags} | {one["seconds"]:.1f} | {one["peak_mib"]:.0f} MiB |')
    return figures


def curl(target: Path) -> Callable[[str], list[list[str]]]:
    """The plain download of the archives, one after another over one connection."""
    outputs = [str(target / Path(path).name) for path in ARCHIVES]

    def commands(url: str) -> list[list[str]]:
        pairs = zip(ARCHIVES, outputs, strict=True)
        asked = [word for path, output in pairs for word in ('-o', output, url + path)]
        return [['curl', '--silent', '--fail', *asked]]

    return commands


def run(commands: list[list[str]], server: 'Server', target: Path) -> dict[str, float]:
    """Run commands one after another into an empty folder, which is then removed.

    Returns:
        dict: Seconds until they end, and until all is on the disk as well; bytes served
        of each archive; MiB of the largest process at its peak.
    """
    target.mkdir()
    if hasattr(os, 'sync'):
        os.sync()
    before = list(server.sent)
    peak, start = 0, time.perf_counter()
    for command in commands:
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            env={**os.environ, 'PYTHONPATH': str(REPO)},
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f'{command} ended with {process.returncode}')
        peak = max(peak, usage.ru_maxrss)
    seconds = time.perf_counter() - start
    if hasattr(os, 'sync'):
        os.sync()
    on_disk = time.perf_counter() - start
    sent = [now - then for now, then in zip(server.sent, before, strict=True)]
    shutil.rmtree(target)
    return {
        'seconds': seconds,
        'on_disk': on_disk,
        'sent': dict(zip(ARCHIVES, sent, strict=True)),
        'peak_mib': peak / 1024,
    }


def print_speed(line: str, results: dict[str, list[dict]]) -> None:
    """Print medians, and the ratios of curl's seconds to each way's."""
    print(
        f'\n| {line} | seconds | on the disk | served | speed over curl '
        '| over curl, unzip | peak memory |\n|---|---|---|---|---|---|---|'
    )
    medians = {
        way: [
            statistics.median(run[key] for run in runs)
            for key in ('seconds', 'on_disk', 'peak_mib')
        ]
        for way, runs in results.items()
    }
    for way, (seconds, on_disk, peak) in medians.items():
        ratios = [medians[peer][0] / seconds for peer in ('curl', 'curl, unzip')]
        sent = results[way][0]['sent']
        print(
            f'| {way} | {seconds:.2f} | {on_disk:.2f} | {sum(sent.values()) / 1e6:.1f} '
            f'MB | {ratios[0]:.2f} | {ratios[1]:.2f} | {peak:.0f} MiB |',
            flush=True,
        )
    some = results['bring, keypoints_only'][0]['sent']
    whole = results['curl'][0]['sent']
    share = sum(some.values()) / sum(whole.values())
    train = some[ARCHIVES[0]] / whole[ARCHIVES[0]]
    print(f'keypoints_only: {share:.3f} of all bytes, {train:.3f} of train2017.zip')


def apart(function: Callable[..., None], *args: object) -> None:
    """Call in another process: a command starts with the peak of who started it."""
    process = multiprocessing.Process(target=function, args=args)
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(f'{function.__name__} ended with {process.exitcode}')


# ── the archives ──────────────────────────────────────────────────────────────────────


def make_archives(root: Path, train: int, val: int, mean: int, scale: int) -> None:
    """Write the three archives; images are noise, which a downloader need not know."""
    rng = random.Random(0)
    pool = rng.randbytes(4 * mean)
    for path in ARCHIVES:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
    ids = {'train2017': sorted(rng.sample(range(1, 600_000), train))}
    ids['val2017'] = list(range(600_000, 600_000 + val))
    with zipfile.ZipFile(root / ARCHIVES[2], 'w') as annotations:
        for path, (split, numbers) in zip(ARCHIVES, ids.items(), strict=False):
            rng.shuffle(numbers)
            with zipfile.ZipFile(root / path, 'w') as archive:
                archive.mkdir(split)
                for number in numbers:
                    start, size = (
                        rng.randrange(2 * mean),
                        int(rng.uniform(0.4, 1.6) * mean),
                    )
                    name = f'{split}/{number:012d}.jpg'
                    archive.writestr(name, pool[start : start + size])
            info = zipfile.ZipInfo(f'annotations/person_keypoints_{split}.json')
            info.compress_type = zipfile.ZIP_DEFLATED
            with annotations.open(info, 'w', force_zip64=True) as file:
                for text in keypoint_file(split, numbers, scale, rng):
                    file.write(text.encode())
        with annotations.open('annotations/instances_train2017.json', 'w') as file:
            for _ in range(OTHER_ANNOTATIONS // scale // 1_000_000):
                file.write(rng.randbytes(1_000_000))


def keypoint_file(
    split: str, numbers: list[int], scale: int, rng: random.Random
) -> Iterator[str]:
    """Write a keypoint file of COCO's size and proportions, piece by piece."""
    yield '{"info": {}, "licenses": [], "images": ['
    for nth, number in enumerate(numbers):
        name = f'{number:012d}.jpg'
        image = {
            'license': 3,
            'file_name': name,
            'coco_url': f'http://images.cocodataset.org/{split}/{name}',
            'height': 480,
            'width': 640,
            'date_captured': '2013-11-14 17:02:52',
            'flickr_url': f'http://farm9.staticflickr.com/8186/{number}_z.jpg',
            'id': number,
        }
        yield ', ' * bool(nth) + json.dumps(image)
    yield '], "annotations": ['
    chosen = rng.sample(numbers, WITH_KEYPOINTS[split] // scale)
    for nth in range(PEOPLE[split] // scale):
        # Each chosen image has somebody; later ones may have no keypoints, as in COCO.
        visible = nth < len(chosen)
        number = chosen[nth] if visible else rng.choice(numbers)
        outline = [round(rng.uniform(0, 640), 2) for _ in range(75)]
        points = [rng.randrange(1, 480) if visible else 0 for _ in range(34)]
        keypoints = [
            value
            for x, y in zip(points[::2], points[1::2], strict=True)
            for value in (x, y, 2 if visible else 0)
        ]
        person = {
            'segmentation': [outline],
            'num_keypoints': 17 if visible else 0,
            'area': 28292.08625,
            'iscrowd': 0,
            'keypoints': keypoints,
            'image_id': number,
            'bbox': [267.03, 104.32, 229.19, 320.0],
            'category_id': 1,
            'id': nth,
        }
        yield ', ' * bool(nth) + json.dumps(person)
    yield '], "categories": [{"id": 1, "name": "person", "keypoints": []}]}'


# ── the server ────────────────────────────────────────────────────────────────────────


class Server:
    """What the benchmark knows of the server's process.

    Attributes:
        url: With a slash at the end.
        sent: Bytes sent of each archive so far.
    """

    def __init__(self, port: int, sent):
        self.url = f'http://127.0.0.1:{port}/'
        self.sent = sent


@contextlib.contextmanager
def served(folder: Path, *, rate: float | None, latency: float) -> Iterator[Server]:
    """Serve a folder from another process."""
    sent = multiprocessing.Array('q', len(ARCHIVES))
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(
        target=serve, args=(folder, rate, latency, sent, theirs), daemon=True
    )
    process.start()
    try:
        yield Server(ours.recv(), sent)
    finally:
        process.terminate()
        process.join()


def serve(folder: Path, rate: float | None, latency: float, sent, pipe) -> None:
    """Serve a folder until the process is ended; tell the port."""
    server = QuietServer(('127.0.0.1', 0), Handler)
    server.folder, server.latency, server.sent = folder, latency, sent
    server.line = Line(rate)
    pipe.send(server.server_address[1])
    server.serve_forever()


class QuietServer(ThreadingHTTPServer):
    """A server that a client may leave as it likes."""

    def handle_error(self, request, client_address):
        """Say what went wrong unless only the connection did."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Line:
    """What all connections share: so many bytes a second."""

    def __init__(self, rate: float | None):
        self._rate = rate
        self._free_at = 0.0
        self._lock = threading.Lock()

    def wait(self, count: int) -> None:
        """Wait until that many bytes have got through."""
        if self._rate is None:
            return
        with self._lock:
            now = time.perf_counter()
            # A little is caught up on: sleeping is not exact.
            self._free_at = max(self._free_at, now - 0.01) + count / self._rate
            pause = self._free_at - now
        if pause > 0:
            time.sleep(pause)


class Handler(BaseHTTPRequestHandler):
    """Files and parts of files, sent by the system."""

    protocol_version = 'HTTP/1.1'
    disable_nagle_algorithm = True

    def setup(self):
        """Take a connection: a way there and back goes by."""
        super().setup()
        time.sleep(self.server.latency)

    def log_message(self, *args):
        """Keep quiet."""

    def do_HEAD(self):
        """Say how large a file is."""
        self._answer()

    def do_GET(self):
        """Send a file, or the part that is asked for."""
        self._answer()

    def _answer(self):
        time.sleep(self.server.latency)
        path = self.path.lstrip('/')
        if path not in ARCHIVES:
            self.send_error(404)
            return
        with open(self.server.folder / path, 'rb') as file:
            size = os.fstat(file.fileno()).st_size
            start, stop = 0, size
            asked = re.fullmatch(r'bytes=(\d+)-(\d*)', self.headers.get('Range', ''))
            if asked:
                start = int(asked[1])
                stop = min(int(asked[2]) + 1, size) if asked[2] else size
            self.send_response(206 if asked else 200)
            self.send_header('ETag', f'"{path}"')
            self.send_header('Accept-Ranges', 'bytes')
            self.send_header('Content-Length', str(stop - start))
            if asked:
                self.send_header('Content-Range', f'bytes {start}-{stop - 1}/{size}')
            self.end_headers()
            if self.command == 'GET':
                self._send(file, start, stop, ARCHIVES.index(path))

    def _send(self, file, start, stop, archive):
        step = 256 * 1024
        for offset in range(start, stop, step):
            count = min(step, stop - offset)
            self.server.line.wait(count)
            self.connection.sendfile(file, offset, count)
            with self.server.sent.get_lock():
                self.server.sent[archive] += count


if __name__ == '__main__':
    main()
