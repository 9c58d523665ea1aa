# Run one of MMPose's own launch scripts under the name of ours, so that it finds the
# train.py and test.py that lie beside us. Sourced by the *.sh files of this folder.
set -euo pipefail
tools="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# The stock scripts call `python`: one that has the plugin installed, or that of .venv.
# Asked from a directory where it could not find the checkout itself.
if ! (cd "$tools" && python -c 'import sapiens_plugin, mmengine') 2>/dev/null; then
    python="$(python3 "$tools/bootstrap.py")"
    PATH="$(dirname "$python"):$PATH"
fi
stock="$(python -c 'import sys; from sapiens_plugin.launch import stock_tool
print(stock_tool(sys.argv[1]))' "$(basename "$0")")"
export PATH PYTHONPATH="${PYTHONPATH:-}"
