"""The SHA-256 of named tensors, from their bytes: the same for who has torch and who has not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence


def tensor_digest(tensors: Iterable[tuple[str, str, Sequence[int], bytes]]) -> str:
    """SHA-256, 64 hex digits, over tensors; one of them at a time is asked for.

    Args:
        tensors: name, dtype as `float32`, shape, and little-endian contiguous bytes of each, in the order of
            the names' UTF-8 bytes.
    """
    digest = hashlib.sha256(b"rayunlearn-weights-1\n")
    for name, dtype, shape, data in tensors:
        for part in (name.encode(), dtype.encode(), ",".join(map(str, shape)).encode(), data):
            digest.update(f"{len(part)}:".encode())
            digest.update(part)
    return digest.hexdigest()
