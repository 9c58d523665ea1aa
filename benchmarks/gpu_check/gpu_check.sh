#!/bin/bash
# Run gpu_check.py on a Linux machine with a CUDA GPU and without internet.
#
#   bash .gpu/gpu_check.sh            (all tasks, what is most needed first)
#   bash .gpu/gpu_check.sh --only 3_  (arguments go to gpu_check.py)
#
# .gpu/ is what prepare.sh makes; it has to lie in the repository. README.md says which
# packages python3 needs. OUT is the folder for results.json and log.txt.
set -u
here=$(cd "$(dirname "$0")" && pwd)
: "${OUT:=$here/../work_dirs/gpu_check}"
mkdir -p "$OUT"
export PYTHONUNBUFFERED=1

install() {
  python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir \
    --target "$site/$1" "$here/$2"/*.whl || echo "The wheels in $2 cannot be installed."
}

measure() {
  nvidia-smi --query-gpu=name,driver_version,memory.total,memory.used --format=csv,noheader
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  install mm whl
  # These are apart, because MMEngine imports DeepSpeed wherever it finds it.
  install rivals whl_rivals
  echo "The packages are ready after $SECONDS s."
  PYTHONPATH=$site/mm${PYTHONPATH:+:$PYTHONPATH} \
    python3 "$here/gpu_check.py" --out "$OUT" --rivals "$site/rivals" "$@"
}

measure "$@" 2>&1 | tee -ia "$OUT/log.txt"
exit "${PIPESTATUS[0]}"
