#!/bin/bash
# Make .gpu/, with which gpu_check.py runs on a machine that has no internet.
#
#   BUILDER=PYTHON bash benchmarks/gpu_check/prepare.sh
#
# Run this where there is internet. It takes about 20 MB: copies of the scripts, MMPose
# and the packages it needs, and the libraries that streaming is compared with. PYTHON is
# a Python with pip, torch and setuptools, such as .venv/bin/python; without it, DeepSpeed
# is left out. PYTHON_VERSION is the version of the other machine's Python (3.12).
set -eu
python=$(command -v "${BUILDER:-python3}")
[[ $python == /* ]] || python=$PWD/$python
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
rm -rf .gpu
mkdir -p .gpu/whl .gpu/whl_rivals
cp -r "$here"/*.py "$here"/gpu_check.sh "$here"/gpu_tasks "$here"/measuring .gpu/
find .gpu -name __pycache__ -prune -exec rm -r {} +
fetch() {
  local into=$1
  shift
  "$python" -m pip download -q --no-deps --only-binary=:all: -d "$into" \
    --implementation cp --python-version "${PYTHON_VERSION:-3.12}" \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
    --platform manylinux_2_24_x86_64 --platform manylinux_2_17_x86_64 \
    --platform manylinux2014_x86_64 --platform manylinux1_x86_64 "$@"
}
for name in mmengine==0.10.7 mmcv-lite==2.1.0 mmdet==3.3.0 mmpose==1.3.2 \
    json_tricks==3.17.3 munkres==3.0.0 pycocotools==2.0.11 hotcoco==1.3.0 orjson addict \
    yapf terminaltables shapely termcolor platformdirs pyyaml psutil==7.2.2; do
  fetch .gpu/whl "$name"
done
for name in torchao ramtorch trainstream hjson py-cpuinfo pydantic==2.14.4 pydantic-core==2.50.5 \
    annotated-types typing-inspection einops msgpack ninja tqdm; do
  fetch .gpu/whl_rivals "$name" || echo "$name cannot be fetched"
done
# DeepSpeed has no wheel. It is plain Python, and compiles its optimizer where it runs.
if [[ -n ${BUILDER:-} ]]; then
  DS_BUILD_OPS=0 "$python" -m pip wheel -q --no-deps --no-build-isolation \
    -w .gpu/whl_rivals deepspeed || echo 'DeepSpeed cannot be built'
fi
du -sh .gpu
