"""Run the test suite in the project's own environment, made when it is not there yet.

Every argument goes to pytest: ``python3 tools/run_tests.py tests/core -k checkpoint``.
Only ``--python 3.12`` does not: it runs them in ``.venv-3.12``, made with that Python.
"""

import argparse
import sys

from bootstrap import PYTHONS, ROOT, ready_python, run

if __name__ == '__main__':
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument('--python', choices=PYTHONS, default='')
    own, others = parser.parse_known_args()
    python = ready_python(own.python)
    sys.exit(run([str(python), '-m', 'pytest', *others], cwd=ROOT))
