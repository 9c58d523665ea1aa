"""Write down in one page what a training did, or has done so far."""

from bootstrap import enter_environment

enter_environment()

import argparse  # noqa: E402  (only there in the environment, as what follows)
from pathlib import Path  # noqa: E402

from sapiens_plugin.workbench.command import run  # noqa: E402
from sapiens_plugin.workbench.report.report import write_report  # noqa: E402


def main() -> None:
    """Write the report of a work directory and print where it is."""
    parser = argparse.ArgumentParser(
        prog='tools/report.py',
        description=(
            'Write WORK_DIR/report.html: curves, the best and worst persons of the '
            'best validation, AP by keypoint and by size, the plan against what '
            'happened. The page is one file and needs no network. A training writes '
            'it by itself at its end.'
        ),
    )
    parser.add_argument(
        'work_dir', type=Path, help='the work directory of a training, ended or not'
    )
    print(write_report(parser.parse_args().work_dir))


if __name__ == '__main__':
    run('tools/report.py', main)
