#!/usr/bin/env bash
# MMPose's own slurm_test.sh on this project's tools; same arguments and variables.
# It calls tools/*.py from the current directory, so paths are made absolute first.
source "$(dirname "${BASH_SOURCE[0]}")/_stock.sh"
arguments=("${@:1:2}")
for argument in "${@:3:2}"; do arguments+=("$(realpath -m "${argument/#\~\//$HOME/}")"); done
cd "$tools/.."
exec bash -c "$(cat "$stock")" "$tools/slurm_test.sh" "${arguments[@]}" "${@:5}"
