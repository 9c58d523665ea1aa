"""Check a keypoint file in COCO form before a job runs on it."""

from bootstrap import enter_environment

enter_environment()

import argparse  # noqa: E402  (only there in the environment, as what follows)
import json  # noqa: E402
from pathlib import Path  # noqa: E402

from sapiens_plugin.errors import InputError  # noqa: E402
from sapiens_plugin.workbench.command import run  # noqa: E402
from sapiens_plugin.workbench.dataset_check.check import check_dataset  # noqa: E402
from sapiens_plugin.workbench.dataset_check.report import print_report  # noqa: E402
from sapiens_plugin.workbench.dataset_check.samples import draw_samples  # noqa: E402

EXAMPLES = """examples:
  python tools/check_dataset.py my/train.json my/images
  python tools/check_dataset.py my/train.json my/images --decode --json report.json
"""


def main() -> int:
    """Check a data set; return 1 if a job would stop or learn nothing from it."""
    parser = argparse.ArgumentParser(
        prog='tools/check_dataset.py',
        description=(
            'Check a keypoint file in COCO form, and the images it names, for what '
            'would stop a job or make it learn nothing. Prints a table and draws a '
            'few samples; exits with 1 if there is an error.'
        ),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('annotations', type=Path, help='the file, such as train.json')
    parser.add_argument(
        'images', type=Path, help='the folder that its file names are relative to'
    )
    parser.add_argument(
        '--decode',
        action='store_true',
        help='decode every image to its end, which finds damaged ones (slow); '
        'otherwise only its header is read',
    )
    parser.add_argument(
        '--samples',
        type=int,
        default=6,
        metavar='N',
        help='how many pictures to draw (default: 6)',
    )
    parser.add_argument(
        '--seed',
        type=int,
        default=0,
        metavar='S',
        help='another number draws other pictures (default: 0)',
    )
    parser.add_argument(
        '--out',
        type=Path,
        metavar='DIR',
        help='where to draw them (default: work_dirs/check_dataset/NAME)',
    )
    parser.add_argument(
        '--json', type=Path, metavar='FILE', help='also write what was found to FILE'
    )
    args = parser.parse_args()
    report = check_dataset(
        args.annotations,
        args.images,
        decode=args.decode,
        samples=max(args.samples, 0),
        seed=args.seed,
    )
    print_report(report)
    out = args.out or Path('work_dirs', 'check_dataset', args.annotations.stem)
    try:
        overview = draw_samples(report.samples, out)
        if args.json:
            text = json.dumps(report.as_dict(), indent=2) + '\n'
            args.json.write_text(text, encoding='utf-8')
    except OSError as error:
        raise InputError(
            f'{error.filename} cannot be written: {error.strerror}. Name another place.'
        ) from error
    if overview:
        print(f'Look at {overview}')
    return 0 if report.is_usable else 1


if __name__ == '__main__':
    run('tools/check_dataset.py', main)
