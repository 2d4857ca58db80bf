"""How to cut the input of a network that sees an aligned window. Exported files contain this code as text.

Whoever uses such a file needs NumPy and OpenCV, not this project.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from dali_pipes.geometry import MARGIN, aligned


def cut_aligned(
    image: NDArray[np.uint8], points: Sequence[tuple[float, float]], crop: int, size: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """An RGB image (h, w, 3) and a polyline in its pixels, base first → rgb (S, S, 3), polyline and padding (S, S, 1).

    `crop`: the smallest side of the window in pixels of the image; `size`: S.
    """
    height, width = image.shape[:2]
    mask = np.zeros((height, width), np.uint8)
    cv2.polylines(mask, [np.array(points).astype(np.int32)], False, 255, max(1, int(0.004 * min(height, width))))
    matrix, inverse = aligned(points, crop, size), cv2.WARP_INVERSE_MAP
    rgb, polyline = (cv2.warpAffine(x, matrix, (size, size), flags=cv2.INTER_LINEAR | inverse) for x in (image, mask))
    inside = cv2.warpAffine(np.full_like(mask, 255), matrix, (size, size), flags=cv2.INTER_NEAREST | inverse)
    return rgb.astype(np.uint8), polyline[..., None].astype(np.uint8), (255 - inside)[..., None].astype(np.uint8)


def as_text(crop: int, size: int) -> str:
    """Python code that defines `cut_aligned` and shows how a network with this window calls it."""
    imports = f"from __future__ import annotations\n\nimport cv2\nimport numpy as np\n\nMARGIN = {MARGIN}\n"
    functions = "\n\n".join(inspect.getsource(function) for function in (aligned, cut_aligned))
    return (
        f"{imports}\n\n{functions}\n\n# rgb, polyline, padding = cut_aligned(image, points, crop={crop}, size={size})\n"
    )
