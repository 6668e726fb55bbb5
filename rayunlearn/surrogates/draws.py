"""Random numbers by counting: each is a hash of the seed, what it is for, the picture and its place.

A picture's numbers depend on nothing that is drawn beside it, so they are the same in whatever batch and
order pictures are asked for; and whole numbers alone make them, so they are the same on every machine.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rayunlearn.errors import BadInput
from rayunlearn.seeds import derive_seed

_BITS = 24
"""Of a uniform number: as many as float32 holds."""


def _signed(number: int) -> int:
    """The same 64 bits as a signed number, which torch has."""
    return number - 2**64 if number >= 2**63 else number


_STEP = _signed(0x9E3779B97F4A7C15)
_ROUNDS = ((30, _signed(0xBF58476D1CE4E5B9)), (27, _signed(0x94D049BB133111EB)), (31, 1))


def hashed(numbers: Tensor) -> Tensor:
    """SplitMix64's mixing of int64 numbers, a bijection of 64 bits.

    Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators", section 5.

    >>> hashed(torch.tensor([0, _STEP]))[1].item() == _signed(0xE220A8397B1DCDAF)  # the first of seed 0
    True
    """
    for shift, factor in _ROUNDS:
        above = (1 << (64 - shift)) - 1  # `>>` of a signed number brings in its sign
        numbers = (numbers ^ ((numbers >> shift) & above)) * factor
    return numbers


@functools.cache
def _named(what: str) -> int:
    return derive_seed(0, "surrogates", what)


def as_indices(indices: int | Sequence[int] | Tensor) -> Tensor:
    """The numbers of pictures, int64 `[N]`: a count stands for 0 to count - 1.

    Raises:
        BadInput: a number below 0, or what is no row of whole numbers.
    """
    allowed = "a count, or a row of whole numbers >= 0"
    if isinstance(indices, Tensor):
        if indices.ndim != 1 or indices.dtype in (torch.bool, torch.uint64) or indices.is_floating_point():
            raise BadInput("indices", tuple(indices.shape), f"{allowed}; got {indices.dtype}")
        numbers = indices.to(torch.int64).cpu()
    elif isinstance(indices, bool) or (isinstance(indices, int) and not 0 <= indices < 2**63):
        raise BadInput("indices", indices, allowed)
    elif isinstance(indices, int):
        return torch.arange(indices)
    else:
        listed = list(indices)
        if any(type(number) is not int or not 0 <= number < 2**63 for number in listed):
            raise BadInput("indices", listed, allowed)
        numbers = torch.tensor(listed, dtype=torch.int64)
    if len(numbers) and int(numbers.min()) < 0:
        raise BadInput("indices", int(numbers.min()), allowed)
    return numbers


@dataclass(frozen=True, kw_only=True)
class Draws:
    """The random numbers of N pictures; a number that is drawn again is the same."""

    keys: Tensor
    """int64 `[N]`: one for each picture, which its numbers are hashed from."""

    @classmethod
    def of(cls, seed: int, what: str, indices: Tensor) -> Draws:
        """Those of pictures `indices`, int64 `[N]`, for this purpose under this seed."""
        return cls(keys=hashed(hashed(indices * _STEP + derive_seed(seed, "surrogates", what))))

    def __len__(self) -> int:
        """N."""
        return len(self.keys)

    def __getitem__(self, which: Tensor | slice) -> Draws:
        """Those of some of the pictures."""
        return Draws(keys=self.keys[which])

    def apart(self, what: str) -> Draws:
        """Other numbers of the same pictures, for a part that draws by names used elsewhere."""
        return Draws(keys=hashed(self.keys + _named(what)))

    def bits(self, what: str, *shape: int) -> Tensor:
        """Whole numbers int64 `[N, *shape]`, uniform below 2**24."""
        count = 1
        for length in shape:
            count *= length
        places = torch.arange(1, count + 1, device=self.keys.device) * _STEP
        numbers = hashed(hashed(self.keys ^ _named(what))[:, None] + places)
        return ((numbers >> (64 - _BITS)) & ((1 << _BITS) - 1)).view(len(self), *shape)

    def uniform(self, what: str, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Numbers `[N, *shape]`, uniform from `low` to below `high`."""
        return self.bits(what, *shape).to(torch.float32) * 2.0**-_BITS * (high - low) + low

    def whole(self, what: str, *shape: int, below: int) -> Tensor:
        """Whole numbers int64 `[N, *shape]`, uniform below `below`."""
        return (self.bits(what, *shape) * below) >> _BITS

    def chance(self, what: str, *shape: int, share: float) -> Tensor:
        """Whether, bool `[N, *shape]`, in this share of cases."""
        return self.uniform(what, *shape) < share

    def bell(self, what: str, *shape: int) -> Tensor:
        """Numbers `[N, *shape]` about 0 with standard deviation 1, the sum of three uniform ones."""
        three = self.uniform(what, *shape, 3, low=-1.0)
        return three[..., 0] + three[..., 1] + three[..., 2]

    def one_of(self, what: str, weights: Sequence[float], *shape: int) -> Tensor:
        """Places int64 `[N, *shape]` in `weights`, in proportion to them."""
        number = self.uniform(what, *shape)
        total, below, place = sum(weights), 0.0, torch.zeros_like(number, dtype=torch.int64)
        for weight in weights[:-1]:
            below += weight
            place += number >= below / total
        # after rounding the last of them might be one without weight
        return place.clamp_(max=max(i for i, weight in enumerate(weights) if weight > 0))
