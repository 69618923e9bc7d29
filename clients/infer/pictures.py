"""Pictures as arrays (C, H, W) of bytes: PNG by our own reader, JPEG by OpenCV."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from fedlearn.clients.infer import png
from fedlearn.clients.infer.tensors import Array
from fedlearn.errors import DataError, UserError

SUFFIXES = (".png", ".jpg", ".jpeg")

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"


def opencv(needed: str) -> Any:
    """Return the module cv2; raises UserError that says what needed it."""
    # Before it is loaded: a small file may claim to be a picture of gigabytes.
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(png.MOST_VALUES // 4))
    try:
        import cv2
    except ImportError:
        raise UserError(
            f"{needed} needs OpenCV: pip install 'fedlearn[camera]'"
        ) from None
    return cv2


def read_picture(path: Path) -> Array:
    """Return the pixels (C, H, W) uint8 of a file; raises DataError, OSError, UserError."""
    return decoded(path.read_bytes(), path.name)


def decoded(data: bytes, name: str) -> Array:
    """Return the pixels (C, H, W) uint8 of a PNG or JPEG; raises DataError, UserError."""
    if not data.startswith(JPEG):
        return png.read(data, name).transpose(2, 0, 1)
    cv2 = opencv("a JPEG picture")
    try:
        frame = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        frame = None
    if frame is None:
        raise DataError(f"'{name}' is a damaged JPEG picture")
    return planes(frame)


def planes(frame: Array) -> Array:
    """Return OpenCV's frame, (H, W, 3) blue first, as (3, H, W) red first."""
    return np.ascontiguousarray(frame[..., ::-1].transpose(2, 0, 1))
