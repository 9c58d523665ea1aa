"""Bring COCO 2017 into data/coco: annotations, images, person detections."""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

from bootstrap import ROOT, enter_environment

enter_environment()

from sapiens_plugin.core.coco.layout import SERVER  # noqa: E402
from sapiens_plugin.workbench.command import run  # noqa: E402  (only there in the environment)
from sapiens_plugin.workbench.download.coco import Order, bring  # noqa: E402
from sapiens_plugin.workbench.download.coco_verify import Verdict, verify  # noqa: E402

TOOL = 'tools/download_coco.py'
SHOWN = 20  # faults on a terminal; elsewhere all


def main() -> int:
    """Run the command line."""
    args = parse_args()
    if args.verify:
        print(f'Reading {args.root}', flush=True)
        parts = verify(
            args.root, keypoints_only=args.keypoints_only, detections=args.detections
        )
        return report(parts)
    bring(
        Order(
            root=args.root,
            server=args.mirror,
            source=args.source,
            keypoints_only=args.keypoints_only,
            keep_archives=args.keep_archives,
            repair=args.repair,
            detections=args.detections,
            connections=args.connections,
        )
    )
    print(f'All that was asked for is in {args.root}; --verify reads it again')
    return 0


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Bring COCO 2017 (20 GB, or half of it with --keypoints-only) and\n'
        'the person detections for testing. Run again after whatever cut it off: it\n'
        'goes on, and fetches no image twice.',
        epilog='examples:\n  python tools/download_coco.py --keypoints-only\n'
        '  python tools/download_coco.py --from /mnt/share/coco\n'
        '  python tools/download_coco.py --verify',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    check = parser.add_mutually_exclusive_group()
    parser.add_argument(
        '--keypoints-only',
        action='store_true',
        help='of train2017, only the images that a keypoint job reads (about 56,600 of '
        '118,287); val2017 comes whole',
    )
    parser.add_argument(
        '--from',
        dest='source',
        metavar='DIR',
        type=Path,
        help='a folder with archives (train2017.zip, …) or unpacked images that you '
        'have already; what it lacks is downloaded',
    )
    check.add_argument(
        '--verify',
        action='store_true',
        help='download nothing; check every file that should be there, list what is '
        'missing or broken, and exit with 1 if anything is',
    )
    check.add_argument(
        '--repair',
        action='store_true',
        help='check every file that is there, and bring what of the last choice is '
        'missing or broken',
    )
    parser.add_argument(
        '--keep-archives',
        action='store_true',
        help='fetch the archives whole and leave them in archives/; takes twice the '
        'room',
    )
    parser.add_argument(
        '--no-detections',
        dest='detections',
        action='store_false',
        help='leave out the person detections',
    )
    parser.add_argument(
        '--root',
        metavar='DIR',
        type=Path,
        default=Path(
            os.environ.get('COCO_ROOT') or ROOT / 'data' / 'coco'
        ).expanduser(),
        help='where it goes (default: the environment variable COCO_ROOT, else '
        'data/coco)',
    )
    parser.add_argument(
        '--mirror',
        metavar='URL',
        type=_address,
        default=SERVER,
        help='a server with zips/ and annotations/ as on %(default)s',
    )
    parser.add_argument(
        '--connections',
        metavar='N',
        type=_positive,
        default=16,
        help='how many at once (default: %(default)s)',
    )
    args = parser.parse_args()
    if args.verify and args.source:
        parser.error('--verify reads what is there; --from is for fetching')
    return args


def _address(text: str) -> str:
    if not re.match(r'https?://[^/]', text):
        raise argparse.ArgumentTypeError(f'{text!r} is no address such as {SERVER}')
    return text


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a number from 1 on')
    return int(text)


def report(verdicts: list[Verdict]) -> int:
    """Print what was found; return 0 if all is whole, else 1."""
    for verdict in verdicts:
        shown = verdict.faults[:SHOWN] if sys.stdout.isatty() else verdict.faults
        for fault in shown:
            print(f'{fault.name} {fault.reason}')
        if len(shown) < len(verdict.faults):
            print(f'… and {len(verdict.faults) - len(shown):,} more')
    for verdict in verdicts:
        how = 'bytes compared' if verdict.compared else 'readable'
        wrong = f'{len(verdict.faults):,} not right'
        state = 'whole' if not verdict.faults else wrong
        if verdict.unfinished:
            state += ', its download did not end'
        print(f'{verdict.name:<12}{verdict.expected:>8,} files  {how:<15} {state}')
    if all(verdict.is_whole for verdict in verdicts):
        return 0
    options = ['--repair' if word == '--verify' else word for word in sys.argv[1:]]
    command = subprocess.list2cmdline(['python3', TOOL, *options])
    print(f'\nTo bring what is missing or broken: {command}')
    return 1


if __name__ == '__main__':
    run(TOOL, main)
