#!/usr/bin/env bash
# Pack what a GPU machine without a network lacks, in pieces that a file transfer with a size limit accepts.
#
#     bash bench/gpu_wheels.sh OUT [PYTHON [CUDA [MIB]]]        default: Python 3.12, CUDA 13, pieces of 56 MiB
#
# For x86-64 Linux with torch, timm, opencv and numpy, but without DALI. The wheels are unpacked into one folder, without
# the extension modules of other Python versions, and packed again. OUT/README.txt says how to join the pieces. On a
# machine with a network, `pip install ".[cuda13]"` is all you need.
set -euo pipefail
out=${1:?usage: bash bench/gpu_wheels.sh OUT [PYTHON [CUDA [MIB]]]} python=${2:-3.12} cuda=${3:-13} mib=${4:-56}
nvjpeg=nvidia-nvjpeg
[[ $cuda == 12 ]] && nvjpeg=nvidia-nvjpeg-cu12
mkdir -p "$out"
work=$(mktemp -d "$out/work.XXXX")
trap 'rm -rf "$work"' EXIT

platforms=()
for platform in manylinux_2_28 manylinux_2_27 manylinux_2_24 manylinux_2_17 manylinux2014; do
    platforms+=(--platform "${platform}_x86_64")
done
# DALI also requires packages for formats and operators that this project does not use; they are left out.
"${PYTHON:-python3}" -m pip download --no-deps --only-binary=:all: --python-version "$python" "${platforms[@]}" \
    --dest "$work/wheels" "nvidia-dali-cuda${cuda}0" "nvidia-nvimgcodec-cu$cuda" "$nvjpeg" 'astunparse<=1.6.3' \
    'gast<=0.7.0' 'six<=1.17' optree simplejpeg tyro docstring_parser typeguard
mkdir "$work/site"
for wheel in "$work"/wheels/*.whl; do
    "${PYTHON:-python3}" -m zipfile -e "$wheel" "$work/site"
done
find "$work/site" -name '*.cpython-*.so' ! -name "*.cpython-${python/./}-*" -delete
tar -C "$work/site" -c . | xz -2 -T0 | split -b "${mib}M" -d - "$out/site.tar.xz."
(cd "$out" && sha256sum site.tar.xz.*) >"$work/sums"
cat >"$out/README.txt" <<README
DALI for Python $python and CUDA $cuda, with what else the chimney-height trainer needs.
On the machine with the GPU, with all pieces in one folder:

    mkdir site && cat site.tar.xz.?? | tar -xJ -C site
    PYTHON=python3 PYTHONPATH=\$PWD/site bash bench/gpu.sh        # in the checkout: use the absolute path of site

Two red lines about nvjpeg2k and nvtiff are harmless: those formats are not used.

$(cat "$work/sums")
README
du -h "$out"/site.tar.xz.*
