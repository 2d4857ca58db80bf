"""The formats of export, and the suffix of each; a module of its own because `--help` shows them without torch."""

from __future__ import annotations

from typing import Literal

Format = Literal["torch", "onnx", "aoti", "reference"]
SUFFIXES: dict[Format, str] = {"torch": ".pt2", "onnx": ".onnx", "aoti": ".pt2", "reference": ".pth"}
