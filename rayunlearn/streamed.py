"""Images that do not fit into memory: their pixels lie in files, and a batch is read when it is asked for.

A `StreamedImages` stands where a tensor of normalised images does. It has a length, a shape and a device,
`split()` and indexing; what it gives are tensors, to the bit those that normalising all at once would give.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

ROWS_AT_ONCE = 4096
"""Images that are read in one go, where all are."""


class StoredPixels:
    """Raw pixels in a file that is open, image after image.

    They are read by position and not mapped: what was read counts for this process only while it is used.

    Args:
        file: with a descriptor, kept open for as long as this is.
        shape: [N, C, H, W].
    """

    dtype = torch.uint8

    def __init__(self, file: Any, shape: tuple[int, int, int, int]) -> None:
        self._file = file
        self.shape = torch.Size(shape)
        self._bytes = shape[1] * shape[2] * shape[3]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """The pixels `[n, C, H, W]` uint8 of a slice without steps, or of indices `[n]`."""
        if isinstance(rows, slice):
            first, last, _ = rows.indices(len(self))
            content = bytearray(self._read(first, max(last - first, 0)))
        else:
            content = bytearray(b"".join(self._read(row, 1) for row in rows.tolist()))
        n = len(content) // self._bytes
        if not n:
            return torch.empty(0, *self.shape[1:], dtype=torch.uint8)
        return torch.frombuffer(content, dtype=torch.uint8).view(n, *self.shape[1:])

    def _read(self, first: int, count: int) -> bytes:
        left, at, parts = count * self._bytes, first * self._bytes, []
        while left:
            part = os.pread(self._file.fileno(), min(left, 2**30), at)
            if not part:
                raise OSError(f"the file of pixels ends at {at}")
            parts.append(part)
            left, at = left - len(part), at + len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


Pixels = Tensor | StoredPixels
"""Raw pixels `[N, C, H, W]` uint8, in memory or in a file."""


def chunks(pixels: Pixels, rows: int = ROWS_AT_ONCE) -> Iterator[Tensor]:
    """Raw pixels, so many images at once."""
    for first in range(0, len(pixels), rows):
        yield pixels[first : first + rows]


class StreamedImages:
    """Normalised images `[N, C, H, W]` float32 of which only those asked for are in memory.

    Args:
        parts: raw pixels, one part after another.
        mean: per channel, of pixels in [0, 1].
        std: per channel.
        white: the greatest value of a pixel.
    """

    dtype = torch.float32

    def __init__(
        self,
        parts: Sequence[Pixels],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        white: int = 255,
        *,
        ids: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self._parts, self._mean, self._std, self._white = tuple(parts), mean, std, white
        self._ends = torch.tensor([len(part) for part in self._parts]).cumsum(0)
        self._ids = torch.arange(int(self._ends[-1])) if ids is None else ids
        self.device = torch.device(device)

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def shape(self) -> torch.Size:
        """[N, C, H, W]."""
        return torch.Size((len(self), *self._parts[0].shape[1:]))

    def of(self, ids: Tensor) -> StreamedImages:
        """These images, not read yet.

        Args:
            ids: indices int64, or a mask `[N]`.
        """
        return self._like(self._ids[ids.cpu()])

    def to(self, device: torch.device | str) -> StreamedImages:
        """The same images, to be read to a device."""
        return self._like(self._ids, device)

    def _like(self, ids: Tensor, device: torch.device | str | None = None) -> StreamedImages:
        on = self.device if device is None else device
        return StreamedImages(self._parts, self._mean, self._std, self._white, ids=ids, device=on)

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        """The images of a slice, of indices or of a mask: a tensor."""
        ids = self._ids[index if isinstance(index, slice) else index.cpu()]
        images = torch.empty(len(ids), *self._parts[0].shape[1:])
        part_of = torch.searchsorted(self._ends, ids, right=True)
        begin = 0
        for number, (part, end) in enumerate(zip(self._parts, self._ends.tolist(), strict=True)):
            here = (part_of == number).nonzero().flatten()
            for rows in here.split(ROWS_AT_ONCE):
                images[rows] = part[ids[rows] - begin].to(torch.float32)
            begin = end
        return normalised(images, self._mean, self._std, self._white).to(self.device)

    def split(self, size: int) -> Iterator[Tensor]:
        """Tensors of so many images, in order; each is read when it is its turn."""
        for first in range(0, len(self), size):
            yield self[first : first + size]


Images = Tensor | StreamedImages
"""Normalised images `[N, C, H, W]`, in memory or read when they are asked for."""


def selected(images: Images, ids: Tensor) -> Images:
    """Those images of these ids; of streamed ones none is read yet."""
    return images.of(ids) if isinstance(images, StreamedImages) else images[ids]


def normalised(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...], white: int = 255) -> Tensor:
    """(pixel / white - mean) / std, written into the images themselves, float32 `[N, C, H, W]`."""
    shape = (1, len(mean), 1, 1)
    images.div_(white)
    return images.sub_(torch.tensor(mean).view(shape)).div_(torch.tensor(std).view(shape))
