#!/usr/bin/env bash
# Run everything that needs a GPU, the GPU tests and every benchmark, and insert the figures into docs/benchmarks.md.
#
#     bash bench/gpu.sh [RELEASE]
#
# Works offline, from random weights, on RELEASE or on runs/release, which it renders if missing. The output of each
# command is kept in runs/gpu/NAME.txt. If a command fails, the script stops and the page stays as it was. Without a GPU
# the script exits with status 2 and one sentence, and changes nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}
release=${1:-runs/release}
outputs=runs/gpu
export HF_HUB_OFFLINE=1

if ! "$python" -c 'import torch; raise SystemExit(not torch.cuda.is_available())' 2>/dev/null; then
    echo "error: expected a CUDA device that torch can use by $python, found none; run bench/gpu.sh where there is one" >&2
    exit 2
fi
mkdir -p "$outputs"
rm -f "$outputs"/*.txt

record() { # NAME COMMAND…: run `python -m COMMAND…`, print its output, and keep it below a line with the command
    local name=$1
    shift
    { echo "\$ python -m $*" && "$python" -m "$@"; } | tee "$outputs/$name.txt"
}

if [[ ! -e $release/VS_KS.zip && $release == runs/release ]]; then
    "$python" -m bench.render "$release" --train 2000 --val 300 --scenes 80
fi
record tests pytest -m gpu --durations=0
record loader bench.loader --release "$release" --device cuda --samples 2560
record step bench.step --device cuda --batch-size 64 --steps 20
record epoch bench.epoch --release "$release" --device cuda --backbone convnext_tiny --batch-size 64 --samples 2560 \
    --seeds 3 --backbones convnext_base convnext_tiny --target-size 224
record scale bench.scale --release "$release" --device cuda --figure "$outputs/scale.svg"
record index bench.index "$release" --device cuda
"$python" -m bench.fill docs/benchmarks.md "$outputs"/*.txt
