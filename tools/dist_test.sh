#!/usr/bin/env bash
# MMPose's own dist_test.sh on this project's tools; same arguments and variables.
source "$(dirname "${BASH_SOURCE[0]}")/_stock.sh"
exec bash -c "$(cat "$stock")" "$tools/dist_test.sh" "$@"
