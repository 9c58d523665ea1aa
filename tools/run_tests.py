"""Run the test suite in the project's own environment, made when it is not there yet.

Every argument goes to pytest: ``python3 tools/run_tests.py tests/core -k checkpoint``.
"""

import sys

from bootstrap import ROOT, ready_python, run

if __name__ == '__main__':
    sys.exit(run([str(ready_python()), '-m', 'pytest', *sys.argv[1:]], cwd=ROOT))
