"""The letterbox on a CPU: OpenCV resizes images and masks straight into their frames, as the reference does.

Nothing is copied in between: an image is a view of DALI's memory, a window is a view of its image, and the resize
writes into the batch. On a GPU, `graph.py` letterboxes with DALI's operators, which differ by one grey level at most.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from ..geometry import Letterbox

UInt8 = NDArray[np.uint8]


def resize_into(frame: UInt8, image: UInt8, box: Letterbox) -> None:
    """Resize `image` (h, w) or (h, w, C) bilinearly, without antialiasing, into the part `box` of `frame` (S, S[, C]).

    The channels of `frame` must be contiguous. The rest of it stays as it is.
    """
    inside = frame[box.top : box.top + box.height, box.left : box.left + box.width]
    cv2.resize(image, (box.width, box.height), dst=inside, interpolation=cv2.INTER_LINEAR)


def letterbox_views(frame: UInt8, images: Sequence[UInt8], boxes: Sequence[Letterbox]) -> None:
    """Letterbox the V `images` (h, w, 3) of a sample into its `frame` (S, S, 3·V), which is black."""
    if len(images) == 1:
        resize_into(frame, images[0], boxes[0])
        return
    views = np.zeros((len(images), *frame.shape[:2], 3), np.uint8)
    for view, image, box in zip(views, images, boxes, strict=True):
        resize_into(view, image, box)
    # Several views alternate in memory, and OpenCV cannot resize into that. A copy by numpy takes five times as long.
    cv2.mixChannels(list(views), [frame], [channel for k in range(3 * len(images)) for channel in (k, k)])
