# Run one of MMPose's own launch scripts under the name of ours, so that it finds the
# train.py and test.py that lie beside us. Sourced by the *.sh files of this folder.
set -euo pipefail
tools="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
[ -x "$tools/../.venv/bin/python" ] && export PATH="$tools/../.venv/bin:$PATH"
stock="$(python -c 'import sys; from sapiens_plugin.launch import stock_tool
print(stock_tool(sys.argv[1]))' "$(basename "$0")")"
export PYTHONPATH="${PYTHONPATH:-}"
