"""From a fresh checkout to a trained, tested and drawn pose model, in one command.

The environment, the demo data, then MMPose's own training and test on
``configs/sapiens_tiny_demo.py``, predictions drawn on the validation images and a
training curve. The last line printed is ``coco/AP 0.xxx``.

Run again, it goes on where it was cut off: finished training is tested, not repeated.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from bootstrap import ROOT, outlive_readers, ready_python, run

CONFIG = Path('configs', 'sapiens_tiny_demo.py')
DATA = Path('data', 'demo')
WORK_DIR = Path('work_dirs', 'sapiens_tiny_demo')
INTERRUPTED = 130  # the exit code of a command that Ctrl-C has ended


def main() -> None:
    """Run the command line."""
    outlive_readers()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--fresh', action='store_true', help=f'delete {WORK_DIR} and train anew'
    )
    fresh = parser.parse_args().fresh
    python = ready_python()
    try:
        if fresh and (ROOT / WORK_DIR).exists():
            shutil.rmtree(ROOT / WORK_DIR)
        average_precision = quickstart(ROOT, python)
    except KeyboardInterrupt:
        command = 'The same command, without --fresh,' if fresh else 'The same command'
        print(f'\nquickstart: interrupted. {command} goes on.', file=sys.stderr)
        sys.exit(INTERRUPTED)
    print(f'coco/AP {average_precision:.3f}')


def quickstart(root: Path, python: Path) -> float:
    """Make the demo data, train, test and draw.

    Args:
        root (Path): The checkout; the work directory is made in it.
        python (Path): The Python to run every step with.

    Returns:
        float: ``coco/AP`` of the best checkpoint on the validation people.

    Raises:
        KeyboardInterrupt: A step was ended by Ctrl-C.
        SystemExit: A step failed; the code is the step's.
    """
    work_dir = root / WORK_DIR
    pictures, metrics = work_dir / 'predictions', work_dir / 'test_metrics.json'
    curve = work_dir / 'training_curve.png'
    steps = Steps(root, python, total=4)

    steps.run('demo data', '-m', 'sapiens_plugin.workbench.demo.make_demo', DATA)
    resume = ['--resume'] if any(work_dir.glob('*.pth')) else []
    if resume:
        print(f'\n{WORK_DIR} holds a training: it goes on from there, and a finished')
        print('one is only tested again. To start over: --fresh')
    steps.run('train', Path('tools', 'train.py'), CONFIG, *resume)
    best = newest_best(work_dir)
    # MMPose numbers the pictures on from those that lie there.
    shutil.rmtree(pictures, ignore_errors=True)
    steps.run(
        'test', Path('tools', 'test.py'), CONFIG, best.relative_to(root),
        '--show-dir', pictures, '--out', metrics.relative_to(root),
    )  # fmt: skip
    steps.run('curve', '-m', 'sapiens_plugin.workbench.report.training_curve', WORK_DIR)

    print(f'\nPredictions      {pictures} (one picture per person)')
    print(f'Training curve   {curve}')
    print(f'Best checkpoint  {best}')
    print(f'TensorBoard      {python} -m tensorboard.main --logdir {work_dir}')
    print('\nThe AP of the test is with flips, that of the curve without.')
    return json.loads(metrics.read_text(encoding='utf-8'))['coco/AP']


def newest_best(work_dir: Path) -> Path:
    """Return the checkpoint with the best validation AP of the latest training."""
    found = work_dir.glob('best_coco_AP_epoch_*.pth')
    best = max(found, key=lambda path: path.stat().st_mtime, default=None)
    if best is None:
        sys.exit(
            f'quickstart: the training left no best_coco_AP_epoch_*.pth in {work_dir}. '
            f'Run it again with --fresh.'
        )
    return best


class Steps:
    """Runs commands one after the other, each announced and timed.

    Args:
        root (Path): The directory that commands run in.
        python (Path): The Python that they run with.
        total (int): How many there will be.
    """

    def __init__(self, root: Path, python: Path, total: int):
        self._root, self._python, self._total = root, python, total
        self._number = 0

    def run(self, title: str, *arguments) -> None:
        """Run one step.

        Raises:
            KeyboardInterrupt: The step was ended by Ctrl-C.
            SystemExit: With the step's exit code, if that is another but 0.
        """
        self._number += 1
        name = f'step {self._number} of {self._total}, {title}'
        command = [str(self._python), *map(str, arguments)]
        print(f'\n== {name}\n$ {subprocess.list2cmdline(command)}', flush=True)
        started = time.monotonic()
        code = run(command, cwd=self._root)
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        if code:
            print(f'quickstart: {name}, failed with code {code}.', file=sys.stderr)
            sys.exit(code)
        print(f'== {time.monotonic() - started:.0f} s', flush=True)


if __name__ == '__main__':
    main()
