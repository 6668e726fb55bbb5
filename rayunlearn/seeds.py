"""Seeds by hashing what a draw is for, never by shard, process or clock.

Every random draw of a run takes its generator from `generator(root, *what)`, so a draw depends on
what it is for and on nothing else: a run resumed after a kill, or placed elsewhere, draws the same.
"""

from __future__ import annotations

import hashlib

import torch


def derive_seed(root: int, *what: str | int) -> int:
    """A 63-bit seed for the purpose `what` under the run's root seed.

    Args:
        root: the seed the user gave.
        what: lineage, request, attempt, purpose, cycle, sample index: whatever tells draws apart.

    >>> derive_seed(0, "gkt", "z", 1) == derive_seed(0, "gkt", "z", 1)
    True
    >>> len({derive_seed(0, "a", 11), derive_seed(0, "a1", 1), derive_seed(0, "a", "11")})
    3
    """
    digest = hashlib.sha256()
    for part in (root, *what):
        text = f"{type(part).__name__}:{part}"
        digest.update(f"{len(text)}:{text};".encode())
    return int.from_bytes(digest.digest()[:8], "big") >> 1


def generator(root: int, *what: str | int) -> torch.Generator:
    """A CPU generator seeded by `derive_seed`; draws are made on CPU so that every device agrees."""
    return torch.Generator(device="cpu").manual_seed(derive_seed(root, *what))
