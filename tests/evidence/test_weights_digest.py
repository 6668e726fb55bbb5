"""The id of a version without torch is the one with torch, for every type and shape."""

from __future__ import annotations

import hashlib
import json
from io import BytesIO

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rayunlearn.errors import BadInput
from rayunlearn.evidence.weights_digest import DTYPES, weights_digest
from rayunlearn.models.weights import version_id, weights_to_bytes

TYPES = [getattr(torch, name) for name, _ in DTYPES.values()]
TENSORS = st.builds(
    lambda kind, shape, fill: torch.full(shape, fill).to(kind),
    st.sampled_from(TYPES), st.lists(st.integers(0, 3), max_size=3), st.integers(0, 5),
)  # fmt: skip


@settings(max_examples=50)
@given(st.dictionaries(st.text("aé.1\U0001f600", min_size=1, max_size=4), TENSORS, min_size=1, max_size=4))
def test_it_is_the_id_that_torch_gives(state: dict[str, torch.Tensor]) -> None:
    """Names, types, shapes and bytes, whatever the metadata; and the file's own SHA-256."""
    for metadata in (None, {"a": "b"}):
        data = weights_to_bytes(state, metadata)
        assert weights_digest(BytesIO(data)) == (hashlib.sha256(data).hexdigest(), version_id(state))


def test_a_bit_changes_it() -> None:
    """Negative control: one bit of one tensor, and another name."""
    state = {"a": torch.zeros(3)}
    _, before = weights_digest(BytesIO(weights_to_bytes(state)))
    data = bytearray(weights_to_bytes(state))
    data[-1] ^= 1
    assert weights_digest(BytesIO(bytes(data)))[1] != before
    assert weights_digest(BytesIO(weights_to_bytes({"b": torch.zeros(3)})))[1] != before


def _file(header: object, data: bytes = b"\0" * 8) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04 a zip",
        (1 << 40).to_bytes(8, "little") + b"{}",
        _file([]),
        _file({"a": {"dtype": "F32", "shape": [2]}}),
        _file({"a": {"dtype": "F33", "shape": [2], "data_offsets": [0, 8]}}),
        _file({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}),
        _file({"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}}),
        _file({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}),
        _file({k: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for k in "ab"}),
    ],
)
def test_what_is_no_safetensors_file_is_refused(data: bytes) -> None:
    """Named, and never read beyond its end; negative control: the same header with right offsets."""
    with pytest.raises(BadInput):
        weights_digest(BytesIO(data))
    weights_digest(BytesIO(_file({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}})))
