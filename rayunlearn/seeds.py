"""Seeds by hashing what a draw is for, never by shard, process or clock.

Every random draw of a run takes its generator from `generator(root, *what)`, so a draw depends on
what it is for and on nothing else: a run resumed after a kill, or placed elsewhere, draws the same.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_DEFAULT_GENERATORS = threading.RLock()


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


@contextmanager
def seeded_default_generators(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's default generators, from which layers draw weights and dropout; put them back afterwards.

    They are the process's, so one thread at a time: runs side by side would draw from each other's seeds.

    Args:
        seed: 63 bits.
        device: whose generator is seeded besides the CPU's, where it is a GPU; no other one's.
    """
    on_gpu = device is not None and device.type == "cuda"
    with _DEFAULT_GENERATORS, torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed every other device too
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
