"""Claims about weights as bytes, files and version ids."""

import hashlib
import json
import math
import os
import pickle

import pytest
import torch

from rayunlearn.errors import BadInput
from rayunlearn.models.weights import (
    COUNTER_DTYPES,
    WEIGHT_DTYPES,
    load_into,
    load_weights_file,
    require_weights,
    version_id,
    weights_from_bytes,
    weights_to_bytes,
)


def state():
    """Two tensors, one of no dimension."""
    return {"w": torch.arange(6, dtype=torch.float32).reshape(2, 3), "n": torch.tensor(7)}


def equal(a, b):
    """Whether two state dicts have the same names, dtypes and values."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


def test_version_id_of_a_known_state():
    """The canonical form, written out: length-prefixed name, dtype, shape and little-endian bytes."""
    form = b"rayunlearn-weights-1\n" + b"1:a" + b"5:int16" + b"1:2" + b"4:\x01\x00\x00\x02"
    assert version_id({"a": torch.tensor([1, 512], dtype=torch.int16)}) == hashlib.sha256(form).hexdigest()


def test_version_id_sees_name_dtype_shape_and_every_bit():
    """A changed name, dtype, shape or lowest bit (also the sign of zero) each gives another id."""
    bit = state()
    bit["w"].view(torch.int32)[1, 2] ^= 1
    zero = state()
    zero["w"][0, 0] = -0.0
    changed = [
        bit,
        zero,
        {"v": state()["w"], "n": state()["n"]},
        {"w": state()["w"].view(torch.int32), "n": state()["n"]},
        {"w": state()["w"].reshape(3, 2), "n": state()["n"]},
        {"w": state()["w"], "n": torch.tensor([7])},
        {"w": state()["w"]},
    ]
    assert len({version_id(s) for s in [state(), *changed]}) == 1 + len(changed)


def test_version_id_ignores_order_strides_and_graph():
    """Insertion order, strides and requires_grad leave the id as it is."""
    strided = state()["w"].t().contiguous().t()
    assert not strided.is_contiguous()
    assert version_id({"n": state()["n"], "w": strided.requires_grad_()}) == version_id(state())


def test_bytes_round_trip():
    """Shared, strided, empty, 0-d and bfloat16 tensors come back equal; metadata leave the id."""
    base = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    given = {
        "a": base, "b": base[:, 1], "t": base.t(), "h": base.bfloat16(), "e": torch.zeros(0, 3),
        "s": torch.tensor(1),
    }  # fmt: skip
    data = weights_to_bytes(given, {"parent": "none"})
    assert equal(weights_from_bytes(data), given)
    assert version_id(weights_from_bytes(data)) == version_id(given)
    assert b"parent" in data
    assert weights_to_bytes(given) == weights_to_bytes(given)


def test_sparse_tensors_are_refused():
    """What has no canonical bytes is refused rather than guessed at."""
    with pytest.raises(BadInput, match="dense"):
        version_id({"a": torch.eye(2).to_sparse()})


@pytest.mark.parametrize("legacy", [False, True])
def test_files_are_told_by_content(tmp_path, legacy):
    """safetensors and torch.save files load whatever their names; both formats of torch.save."""
    (tmp_path / "a.pt").write_bytes(weights_to_bytes(state()))
    torch.save(state(), tmp_path / "b.safetensors", _use_new_zipfile_serialization=not legacy)
    assert equal(load_weights_file(tmp_path / "a.pt"), state())
    assert equal(load_weights_file(tmp_path / "b.safetensors"), state())


def test_safetensors_whose_length_looks_like_a_pickle(tmp_path):
    """A safetensors file whose first byte is 0x80 (header of 128 bytes) is still read as one."""
    for pad in range(256):
        data = weights_to_bytes({"w": torch.zeros(1)}, {"p": "x" * pad})
        if data[0] == 0x80:
            break
    assert data[0] == 0x80
    (tmp_path / "w").write_bytes(data)
    assert load_weights_file(tmp_path / "w").keys() == {"w"}


class Planted:
    """A pickle that makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("form", ["torch", "torch_legacy", "pickle"])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, form):
    """A pickle with code is refused, naming the file, and the code has not run; a plain loader runs it."""
    ran, file = tmp_path / "ran", tmp_path / "weights.pt"
    if form == "pickle":
        file.write_bytes(pickle.dumps({"w": Planted(str(ran))}, protocol=2))
    else:
        torch.save({"w": Planted(str(ran))}, file, _use_new_zipfile_serialization=form == "torch")
    with pytest.raises(BadInput, match="weights.pt"):
        load_weights_file(file)
    assert not ran.exists()
    if form == "pickle":
        pickle.loads(file.read_bytes())  # negative control: the plant works
    else:
        torch.load(file, weights_only=False)
    assert ran.exists()


@pytest.mark.parametrize(
    "content", [b"", b"not weights", b"PK\x03\x04broken", b"\x80\x02broken", b"\x80" * 7 + b"\0{"]
)
def test_broken_files_are_refused(tmp_path, content):
    """Empty, foreign and truncated files are BadInput naming the file."""
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(BadInput, match=r"w\.pt"):
        load_weights_file(tmp_path / "w.pt")


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.tensor([1.0, math.nan]), "not finite"),
        (torch.tensor([math.inf]), "not finite"),
        (torch.tensor([1e300], dtype=torch.float64), "finite numbers of 32 bits"),
        (torch.tensor([1j]), "real numbers"),
    ],
    ids=["nan", "inf", "too large", "complex"],
)
def test_no_number_of_a_classifier_is_refused(tmp_path, suffix, value, said):
    """What would be published as an original must be numbers that it can calculate with."""
    path = tmp_path / f"given.{suffix}"
    if suffix == "pt":
        torch.save({"w": value}, path)
    else:
        path.write_bytes(weights_to_bytes({"w": value}))
    with pytest.raises(BadInput, match=f"weights file .*tensor 'w' is .*{said}"):
        load_weights_file(path)


CODES = [
    torch.int8, torch.uint8, torch.int64, torch.bool, torch.uint16, torch.uint32, torch.float8_e4m3fn,
    torch.float8_e5m2,
]  # fmt: skip


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("dtype", CODES, ids=str)
def test_codes_are_no_weights(tmp_path, suffix, dtype):
    """Quantised weights are codes, whose scale is elsewhere: cast, they are other numbers than those meant.

    Negative control: the same ones in each type of weights are taken.
    """
    path = tmp_path / f"given.{suffix}"

    def written(dtype):
        state = {"w": torch.ones(2, 3).to(dtype)}
        torch.save(state, path) if suffix == "pt" else path.write_bytes(weights_to_bytes(state))

    written(dtype)
    with pytest.raises(BadInput, match=f"tensor 'w' is .*{dtype} .*weights as torch.float16, bfloat16"):
        load_weights_file(path)
    for proper in WEIGHT_DTYPES:
        written(proper)
        assert load_weights_file(path)["w"].dtype == proper


@pytest.mark.parametrize("name", ["norm.running_var", "running_var", "norm.num_batches_tracked"])
def test_a_variance_and_a_counter_are_at_least_0(name):
    """A running variance below 0 is NaN under the root; 0 is fine, and so is a weight below 0."""
    dtype = torch.int64 if "num" in name else torch.float32
    with pytest.raises(BadInput, match=f"tensor '{name}' is -2.0; allowed: at least 0"):
        require_weights({name: torch.tensor(-2, dtype=dtype)})
    require_weights({name: torch.tensor(0, dtype=dtype), "norm.running_mean": torch.tensor([-2.0])})


def test_a_counter_is_one_integer():
    """Of each type that counts; none that is a truth value or has a row of numbers."""
    for dtype in COUNTER_DTYPES:
        require_weights({"norm.num_batches_tracked": torch.tensor(7, dtype=dtype)})
    for value in (torch.tensor(True), torch.tensor([7]), torch.tensor(7, dtype=torch.uint16)):
        with pytest.raises(BadInput, match="a counter, which is one integer"):
            require_weights({"norm.num_batches_tracked": value})


@pytest.mark.parametrize("kind", ["F4", "F6_E2M3", "F8_E8M0"])
def test_a_type_that_torch_has_not_is_refused(kind):
    """The safetensors format has more types than torch; their name is told, no traceback."""
    header = json.dumps({"w": {"dtype": kind, "shape": [8], "data_offsets": [0, 8]}}).encode()
    bits = {"F4": 4, "F6_E2M3": 6, "F8_E8M0": 8}[kind]
    header = header.replace(b"[0, 8]", b"[0, %d]" % bits)
    data = len(header).to_bytes(8, "little") + header + b"\1" * bits
    with pytest.raises(BadInput, match=f"types of torch .'{kind}' is none"):
        weights_from_bytes(data)


@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_tensors_without_plain_numbers_are_refused(tmp_path):
    """Sparse ones, and those that hold none, which torch.save writes."""
    for value in (torch.eye(2).to_sparse(), torch.zeros(2, device="meta")):
        torch.save({"w": value}, tmp_path / "given.pt")
        with pytest.raises(BadInput, match="a dense tensor of real numbers"):
            load_weights_file(tmp_path / "given.pt")


def test_nested_and_absent_files_are_refused(tmp_path):
    """A dict of state dicts names the entry, a bare tensor its type, and a missing file its path."""
    torch.save({"state_dict": state(), "epoch": 3}, tmp_path / "nested.pt")
    with pytest.raises(BadInput, match="'state_dict'"):
        load_weights_file(tmp_path / "nested.pt")
    torch.save(torch.zeros(2), tmp_path / "tensor.pt")
    with pytest.raises(BadInput, match="Tensor"):
        load_weights_file(tmp_path / "tensor.pt")
    with pytest.raises(BadInput, match="absent.pt"):
        load_weights_file(tmp_path / "absent.pt")


def test_load_into_copies_or_names_every_wrong_key():
    """A fitting state is taken; missing, unexpected and mis-shaped keys are named, nothing copied."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2))
    before = version_id(model.state_dict())
    other = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2)).state_dict()
    wrong = {
        "0.weight": other["0.weight"],
        "0.bias": torch.zeros(5),
        "1.weight": other["1.weight"],
        "x": torch.ones(1),
    }
    with pytest.raises(BadInput, match="classifier v3") as error:
        load_into(model, wrong, "classifier v3")
    for text in ("missing: 1.bias", "unexpected: x", "mis-shaped: 0.bias: [5] where the model has [2]"):
        assert text in str(error.value)
    assert version_id(model.state_dict()) == before
    load_into(model, other)
    assert version_id(model.state_dict()) == version_id(other) != before


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("weight", torch.ones(3, dtype=torch.int8), "mis-typed: weight: torch.int8 where .* torch.float32"),
        ("running_var", torch.ones(3).to(torch.float8_e5m2), "mis-typed: running_var: torch.float8_e5m2"),
        ("num_batches_tracked", torch.tensor(7.5), "mis-typed: num_batches_tracked: torch.float32"),
        ("bias", torch.tensor([0, 0, 1e39], dtype=torch.float64), "too large: bias"),
    ],
)
def test_load_into_casts_weights_alone(name, value, said):
    """No code becomes a weight, no fraction a count, no number infinity; the model is then unchanged."""
    model = torch.nn.BatchNorm1d(3)
    before = version_id(model.state_dict())
    with pytest.raises(BadInput, match=said):
        load_into(model, {**model.state_dict(), name: value})
    assert version_id(model.state_dict()) == before


@pytest.mark.parametrize("dtype", WEIGHT_DTYPES, ids=str)
def test_load_into_casts_every_type_of_weights(dtype):
    """A quarter is the same number in each; a counter of 32 bits is cast as well."""
    model = torch.nn.BatchNorm1d(3)
    given = {
        name: value.to(dtype) / 4 if value.is_floating_point() else value.int() + 5
        for name, value in model.state_dict().items()
    }
    load_into(model, given)
    assert model.weight.dtype == torch.float32 and model.weight.tolist() == [0.25] * 3
    assert model.num_batches_tracked.dtype == torch.int64 and int(model.num_batches_tracked) == 5


def test_a_file_beyond_memory_is_refused(tmp_path):
    """In a sentence; the file is one hole of 4 TiB, which takes no room on the disk."""
    path = tmp_path / "hole"
    with path.open("wb") as file:
        file.truncate(1 << 42)
    with pytest.raises(BadInput, match="a file that fits into memory"):
        load_weights_file(path)
