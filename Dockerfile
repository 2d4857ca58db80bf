# This project on NVIDIA's PyTorch image, with the torch of the image. Build and run:
#
#     docker build --tag chimney .
#     docker run --rm --gpus all --ipc host --volume /data:/data chimney \
#         chimney train --release /data/71805 --out /data/runs/one
#
# IMAGE may be any image with Python 3.10 to 3.13 and torch 2.9 or newer. CUDA is 12 or 13, as that torch was built.
ARG IMAGE=nvcr.io/nvidia/pytorch:25.12-py3
FROM ${IMAGE}
ARG CUDA=13

# python3 is in every image, python in some; pip may write into the system's Python, because the image is the environment.
ENV PIP_BREAK_SYSTEM_PACKAGES=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# The constraint file of NVIDIA's image pins all its packages, also a DALI that may be too old. Only torch and what is
# compiled with it must stay, so these are the constraints here. The last line fails if torch was replaced all the same.
WORKDIR /opt/chimney
COPY . .
RUN python3 -m pip list --format=freeze | grep --extended-regexp '^(torch|torchvision|triton|numpy)==' > /tmp/image.txt \
    && python3 -m pip uninstall --yes nvidia-dali-cuda120 nvidia-dali-cuda130 \
    && PIP_CONSTRAINT=/tmp/image.txt python3 -m pip install ".[cuda${CUDA},onnx,tensorboard]" \
    && python3 -m pip list --format=freeze | grep --fixed-strings --line-regexp "$(grep '^torch==' /tmp/image.txt)"

WORKDIR /data
CMD ["chimney", "--help"]
