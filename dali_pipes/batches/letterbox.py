"""Frames on a CPU: OpenCV letterboxes images and masks as the reference does, or turns them, straight into a frame.

Nothing is copied in between: an image is a view of DALI's memory, a window is a view of its image, and OpenCV writes
into the batch. On a GPU, `graph.py` uses DALI's operators. They differ by one grey level at most, and
by two in a few pixels of a turned frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from ..geometry import Letterbox, Placement

UInt8 = NDArray[np.uint8]


def resize_into(frame: UInt8, image: UInt8, box: Letterbox) -> None:
    """Resize `image` (h, w) or (h, w, C) bilinearly, without antialiasing, into the part `box` of `frame` (S, S[, C]).

    The channels of `frame` must be contiguous. The rest of it stays as it is.
    """
    inside = frame[box.top : box.top + box.height, box.left : box.left + box.width]
    cv2.resize(image, (box.width, box.height), dst=inside, interpolation=cv2.INTER_LINEAR)


def turn_into(frame: UInt8, image: UInt8, matrix: NDArray[np.float64]) -> None:
    """Fill all of `frame` (S, S[, C]) with `image` (h, w[, C]), bilinearly, and with black outside of it."""
    turned = cv2.warpAffine(image, matrix, frame.shape[1::-1], dst=frame, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    assert turned is frame, "OpenCV allocated another array"


def place_into(frame: UInt8, image: UInt8, placement: Placement) -> None:
    """Letterbox or turn `image` (h, w[, C]) into its black `frame` (S, S[, C])."""
    if isinstance(placement, Letterbox):
        resize_into(frame, image, placement)
    else:
        turn_into(frame, image, placement)


def place_views(frame: UInt8, images: Sequence[UInt8], placements: Sequence[Placement]) -> None:
    """Place the V `images` (h, w, 3) of a sample in its `frame` (S, S, 3·V), which is black."""
    if len(images) == 1:
        place_into(frame, images[0], placements[0])
        return
    views = np.zeros((len(images), *frame.shape[:2], 3), np.uint8)
    for view, image, placement in zip(views, images, placements, strict=True):
        place_into(view, image, placement)
    # Several views alternate in memory, and OpenCV cannot write into that. A copy by numpy takes five times as long.
    cv2.mixChannels(list(views), [frame], [channel for k in range(3 * len(images)) for channel in (k, k)])
