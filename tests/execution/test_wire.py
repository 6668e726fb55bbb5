from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rayunlearn.execution.wire import pack, unpack
from rayunlearn.inversion.deep_inversion import SyntheticSet
from rayunlearn.roles import Roles

TENSORS = {
    "not contiguous": torch.arange(6.0).reshape(2, 3).t(),
    "no dimension": torch.tensor(3.25),
    "empty": torch.zeros(0, 1, 8, 8),
    "whole numbers": torch.tensor([2**62, -1]),
    "truths": torch.tensor([True, False]),
    "float64": torch.tensor([0.1], dtype=torch.float64),
    # a NaN with a payload, minus zero, the least subnormal
    "odd bits": torch.tensor([0x7FC00123, -(2**31), 1], dtype=torch.int32).view(torch.float32),
}


@dataclass(frozen=True)
class Inner:
    """A dataclass within another."""

    values: tuple[Tensor, ...]
    note: str | None


@dataclass(frozen=True, kw_only=True)
class Outer:
    """Every kind of container."""

    inner: Inner
    by_name: dict[str, Any]
    items: list[Any]
    roles: Roles
    number: int


def bits(tensor: Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    """What must survive: dtype, shape and every bit."""
    return tensor.dtype, tensor.shape, tensor.contiguous().numpy().tobytes()


def test_round_trip_keeps_bits() -> None:
    """Every tensor arrives with its dtype, shape and bits, NaN payloads and signed zeros included."""
    arrived = unpack(pack(TENSORS))
    assert arrived.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert bits(arrived[name]) == bits(tensor), name


def test_packed_messages_hold_no_tensors() -> None:
    """A packed message has a numpy array in the place of every tensor, however deeply nested."""
    message = Outer(
        inner=Inner((torch.ones(2), torch.zeros(1)), None),
        by_name={"a": [torch.ones(1)], "b": {"c": torch.ones(1)}},
        items=[torch.ones(3), (torch.ones(1), 7)],
        roles=Roles(retain=(1,), target=(0,)),
        number=3,
    )
    packed = pack(message)
    arrays = [*packed.inner.values, packed.by_name["a"][0], packed.by_name["b"]["c"], packed.items[0]]
    assert all(type(a) is np.ndarray for a in [*arrays, packed.items[1][0]])


def test_containers_and_plain_values_survive() -> None:
    """Dataclasses, tuples, lists, dicts, None, texts and numbers come back as what they were."""
    message = Outer(
        inner=Inner((torch.ones(2),), None), by_name={"none": None, "share": 0.5}, items=[(1, "x"), []],
        roles=Roles(retain=(1, 2), target=(0,), forgotten=(3,)), number=3,
    )  # fmt: skip
    arrived = unpack(pack(message))
    assert type(arrived) is Outer and type(arrived.inner) is Inner
    assert (arrived.by_name, arrived.items, arrived.number) == (message.by_name, message.items, 3)
    assert arrived.roles == message.roles and arrived.inner.note is None
    assert type(arrived.inner.values) is tuple and torch.equal(arrived.inner.values[0], torch.ones(2))


def test_what_arrives_is_writable_and_its_own() -> None:
    """Ray's arrays are read-only views of its store: what arrives can be written, and changes nothing."""
    sent = pack({"images": torch.zeros(4)})
    sent["images"].setflags(write=False)
    arrived = unpack(sent)["images"]
    arrived += 1
    assert torch.equal(arrived, torch.ones(4))
    assert not sent["images"].any()
    assert arrived.data_ptr() != sent["images"].ctypes.data


def test_a_graph_stays_behind() -> None:
    """A tensor with a graph is sent without it."""
    x = torch.ones(2, requires_grad=True)
    (arrived,) = unpack(pack((x * 2,)))
    assert not arrived.requires_grad
    assert torch.equal(arrived, torch.full((2,), 2.0))


def test_a_synthetic_set_travels_whole() -> None:
    """A set keeps images, labels and how many were asked for."""
    made = SyntheticSet(images=torch.randn(3, 1, 8, 8), labels=torch.tensor([0, 1, 1]), requested=5)
    arrived = unpack(pack(made))
    assert isinstance(arrived, SyntheticSet) and arrived.requested == 5
    assert torch.equal(arrived.images, made.images) and torch.equal(arrived.labels, made.labels)
