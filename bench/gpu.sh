#!/usr/bin/env bash
# All that waits for a GPU, on a machine that has one: the GPU tests, every benchmark, and the README's rows of both.
#
#     bash bench/gpu.sh [RELEASE]
#
# Needs no network: it works on RELEASE or on runs/release, which it renders if it is not there, and from random
# weights.  What each command prints is kept in runs/gpu/NAME.txt.  Any that fails ends it, and the README stays as it
# was.  Without a GPU it ends with status 2 and one sentence, and changes nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}
release=${1:-runs/release}
found=runs/gpu
export HF_HUB_OFFLINE=1

if ! "$python" -c 'import torch; raise SystemExit(not torch.cuda.is_available())' 2>/dev/null; then
    echo "error: expected a CUDA device that torch can use by $python, found none; run bench/gpu.sh where there is one" >&2
    exit 2
fi
mkdir -p "$found"
rm -f "$found"/*.txt

record() { # NAME COMMAND…: runs `python -m COMMAND…`, shows what it prints, and keeps it below the command itself
    local name=$1
    shift
    { echo "\$ python -m $*" && "$python" -m "$@"; } | tee "$found/$name.txt"
}

if [[ ! -e $release/VS_KS.zip && $release == runs/release ]]; then
    "$python" -m bench.render "$release" --train 2000 --val 300 --scenes 80
fi
record tests pytest -m gpu --durations=0
record loader bench.loader --release "$release" --device cuda --samples 2560
record step bench.step --device cuda --batch-size 64 --steps 20
record epoch bench.epoch --release "$release" --device cuda --backbone convnext_tiny --batch-size 64 --samples 2560 \
    --seeds 3 --backbones convnext_base convnext_tiny --target-size 224
record scale bench.scale --release "$release" --device cuda --figure "$found/scale.svg"
record index bench.index "$release" --device cuda
"$python" -m bench.fill README.md "$found"/*.txt
