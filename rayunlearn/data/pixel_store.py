"""Where readers put decoded pixels: in memory while they are few, else in a file without a name."""

from __future__ import annotations

import shutil
import tempfile
from typing import Any

import numpy as np
import torch

from rayunlearn.errors import BadInput
from rayunlearn.streamed import Pixels, StoredPixels

IN_MEMORY_BYTES = 2**28
"""Raw pixels of a part that are kept in memory. CIFAR-10's training images are 153.6 million."""
_SPARE_BYTES = 2**28
"""What is to stay free of the disk."""
_LOOK_EVERY_BYTES = 2**26


class PixelWriter:
    """Takes images one by one, all of one shape, and gives them as a part's pixels.

    Args:
        name: of the data set, for messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._file: Any = tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES)  # noqa: SIM115  # it is handed on
        self._count = 0
        self._looked_at = 0
        self.shape: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return self._count

    def add(self, image: np.ndarray) -> None:
        """An image `[C, H, W]` uint8, of the shape of the first.

        Raises:
            BadInput: the disk of the temporary folder is full.
        """
        self.shape = self.shape or image.shape
        assert image.shape == self.shape and image.dtype == np.uint8, "readers check that"
        size = self._count * image.nbytes
        if size > IN_MEMORY_BYTES and size - self._looked_at > _LOOK_EVERY_BYTES:
            self._looked_at = size
            self._require_room()
        self._file.write(np.ascontiguousarray(image).data)
        self._count += 1

    def pixels(self) -> Pixels:
        """All of them, `[N, C, H, W]` uint8; nothing can be added afterwards."""
        assert self.shape is not None, "readers refuse a part without images"
        channels, height, width = self.shape
        if self._count * channels * height * width > IN_MEMORY_BYTES:
            self._file.flush()
            return StoredPixels(self._file, (self._count, channels, height, width))
        self._file.seek(0)
        content = bytearray(self._file.read())
        self._file.close()
        return torch.frombuffer(content, dtype=torch.uint8).view(self._count, *self.shape)

    def _require_room(self) -> None:
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
        if free < _SPARE_BYTES:
            allowed = f"at least {_SPARE_BYTES}: decoded pixels are put there; TMPDIR names another folder"
            raise BadInput(f"free bytes of the temporary folder {folder!r}", free, allowed, where=self._name)
