#!/usr/bin/env bash
# Run what needs a GPU, part by part, and insert the figures into docs/benchmarks.md.
#
#     [OUT=runs/gpu] [RELEASE=runs/release] bash bench/gpu.sh [PART…]
#
# Without parts all run, in the order of their worth; each takes less than ten minutes:
#   versions   versions and hardware, then one batch from the GPU's graph against the CPU's
#   graph      tests of the DALI graph, the caches, and slow readers of a batch
#   tests      all other tests of the step: eager, compiled, captured
#   step       throughput of the step, batch 16
#   step64     the same, batch 64
#   train      the preset `fast` from random weights, and a profile of ten steps
#   loader     throughput of the loader
#   autotune   the step with max-autotune
#   epoch      whole epochs, and the time to the reference's RMSE
# The output of part NAME is in $OUT/NAME.txt. A part whose output is there is skipped: remove the file to repeat it.
# A part that fails or takes too long leaves $OUT/NAME.failed.txt, and the next one begins. Works offline. RELEASE is
# rendered if it is missing. Without a GPU the script exits with status 2 and one sentence, and changes nothing.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}
release=${RELEASE:-runs/release}
outputs=${OUT:-runs/gpu}
export HF_HUB_OFFLINE=1
all=(versions graph tests step step64 train loader autotune epoch)
failed=()

for part in "$@"; do
    if [[ " ${all[*]} " != *" $part "* ]]; then
        echo "error: expected parts among ${all[*]}, found $part" >&2
        exit 2
    fi
done
if ! "$python" -c 'import torch; raise SystemExit(not torch.cuda.is_available())' 2>/dev/null; then
    echo "error: expected a CUDA device that torch can use by $python, found none; run bench/gpu.sh where there is one" >&2
    exit 2
fi
mkdir -p "$outputs"

record() { # NAME SECONDS COMMAND…: run `python -m COMMAND…`, print its output, and keep it below a line with the command
    local name=$1 seconds=$2
    shift 2
    local file=$outputs/$name.txt partial=$outputs/$name.failed.txt
    if [[ -e $file ]]; then
        echo "$name: skipped, because $file is there"
        return
    fi
    { echo "\$ python -m $*" && timeout -k 20 "$seconds" "$python" -m "$@"; } 2> >(tee "$outputs/$name.log" >&2) |
        tee "$partial"
    if [[ ${PIPESTATUS[0]} == 0 ]]; then
        mv "$partial" "$file"
    else
        echo "$name: failed, or took more than $seconds s; see $partial and $outputs/$name.log" >&2
        failed+=("$name")
    fi
}

needs_release() {
    if [[ ! -e $release/VS_KS.zip && $release == runs/release ]]; then
        timeout 540 "$python" -m bench.render "$release" --train 2000 --val 300 --scenes 80
    fi
}

run_part() {
    case $1 in
    versions)
        record versions 60 train.environment
        record batch 120 pytest -m gpu tests/test_graph.py -k "batches_of_the_cpu and tile" -rA
        ;;
    graph) record graph 300 pytest -m gpu tests/test_graph.py tests/test_step_gpu.py -k "graph or cache or decodes or slow" -rA ;;
    tests) record tests 540 pytest -m gpu --durations=0 ;;
    step) record step 540 bench.step --device cuda --batch-size 16 --steps 20 --autotune off --backbones convnext_base convnext_tiny ;;
    step64) record step64 540 bench.step --device cuda --batch-size 64 --steps 20 --autotune off --backbones convnext_base convnext_tiny ;;
    train)
        needs_release
        record train 540 train --release "$release" --preset fast --weights none --out "$outputs/run"
        record profile 300 bench.step --device cuda --batch-size 64 --repeats 1 --autotune off \
            --backbones convnext_tiny --profile "$outputs/trace.json"
        ;;
    loader)
        needs_release
        record loader 540 bench.loader --release "$release" --device cuda --samples 2560 --repeats 2
        ;;
    autotune) record autotune 580 bench.step --device cuda --batch-size 64 --steps 20 --repeats 3 --backbones convnext_tiny ;;
    epoch)
        needs_release
        record epoch 580 bench.epoch --release "$release" --device cuda --backbone convnext_tiny --batch-size 64 \
            --samples 1024 --repeats 3 --seeds 1 --backbones convnext_base convnext_tiny --target-size 224 --epochs 10
        ;;
    esac
}

(($#)) || set -- "${all[@]}"
for part in "$@"; do
    run_part "$part"
done
measured=()
for name in tests step step64 loader autotune epoch; do
    [[ -e $outputs/$name.txt ]] && measured+=("$outputs/$name.txt")
done
if ((${#measured[@]})); then
    "$python" -m bench.fill docs/benchmarks.md "${measured[@]}" || failed+=(fill)
fi
if ((${#failed[@]})); then
    echo "not done: ${failed[*]}" >&2
    exit 1
fi
