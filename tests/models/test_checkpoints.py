"""Checkpoints as other programs write them: made to fit where that is no guess, refused by name elsewhere."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rayunlearn.errors import BadInput
from rayunlearn.models.checkpoints import PREFIXES, WRAPPERS, load_checkpoint, read_checkpoint
from rayunlearn.models.weights import version_id, weights_to_bytes


def network(seed: int = 0) -> nn.Module:
    """Two layers with BatchNorm between."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


class Inside(nn.Module):
    """The same in a module whose own names begin as a wrapper's do."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.net = network(seed)


def state(seed: int = 1) -> dict[str, Tensor]:
    """What is to be loaded."""
    return dict(network(seed).state_dict())


def prefixed(given: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The names with something before them."""
    return {f"{prefix}{name}": value for name, value in given.items()}


def loaded(path: Path, model: nn.Module | None = None, **more: Any) -> tuple[str, str]:
    """The id of what a fresh network has after it, and what is said."""
    weights, said = load_checkpoint(path, model or network(), **more)
    return version_id(weights), said


RIGHT = version_id(state())


def saved(folder: Path, content: Any) -> Path:
    """A file of `torch.save`."""
    torch.save(content, folder / "given.pth")
    return folder / "given.pth"


def test_a_plain_state_dict_needs_nothing_done(tmp_path: Path) -> None:
    """In both formats; nothing is said of it."""
    (tmp_path / "w.safetensors").write_bytes(weights_to_bytes(state()))
    assert loaded(tmp_path / "w.safetensors") == (RIGHT, "")
    assert loaded(saved(tmp_path, OrderedDict(state()))) == (RIGHT, "")


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapped_state_dict_is_found(tmp_path: Path, name: str) -> None:
    """Beside an optimizer's state and an epoch, which are no weights; where it was is said."""
    content = {name: state(), "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}, "epoch": 3}
    assert loaded(saved(tmp_path, content)) == (RIGHT, f"given.pth: taken from {name!r}")


def test_of_several_state_dicts_one_is_named(tmp_path: Path) -> None:
    """Two candidates are listed, none is taken; `--checkpoint-key` takes either; a wrong key lists them."""
    path = saved(tmp_path, {"state_dict": state(), "state_dict_ema": state(2), "epoch": 3})
    said = r"--checkpoint-key is None; allowed: .*'state_dict' \(9 tensors\), 'state_dict_ema' \(9 tensors\)"
    with pytest.raises(BadInput, match=said):
        loaded(path)
    for key, seed in (("state_dict", 1), ("state_dict_ema", 2)):
        assert loaded(path, key=key) == (version_id(state(seed)), f"given.pth: taken from {key!r}")
    with pytest.raises(BadInput, match="--checkpoint-key is 'epoch'; allowed: 'state_dict'"):
        loaded(path, key="epoch")


def test_an_unknown_name_is_not_guessed(tmp_path: Path) -> None:
    """One state dict under a name of the writer's own, and deeper: it has to be named."""
    path = saved(tmp_path, {"weights": {"best": state()}, "epoch": 3})
    with pytest.raises(BadInput, match=r"'weights\.best' \(9 tensors\)"):
        loaded(path)
    assert loaded(path, key="weights.best")[0] == RIGHT
    with pytest.raises(BadInput, match="--checkpoint-key is 'x'; allowed: none: the file is one state dict"):
        loaded(saved(tmp_path, state()), key="x")
    with pytest.raises(BadInput, match="entry 'epoch' is 'int'"):
        loaded(saved(tmp_path, {"epoch": 3}))


@pytest.mark.parametrize("prefix", [*PREFIXES, "module._orig_mod.", "_orig_mod.model.net."])
def test_a_prefix_of_every_name_is_taken_off(tmp_path: Path, prefix: str) -> None:
    """One or several; what was taken off is said."""
    path = saved(tmp_path, prefixed(state(), prefix))
    assert loaded(path) == (RIGHT, f"given.pth: {prefix!r} taken off every name")


def test_a_prefix_that_the_model_has_stays(tmp_path: Path) -> None:
    """The model's own names begin with it: plain it fits as it is; wrapped once more the outer one goes."""
    own = prefixed(state(), "net.")
    assert loaded(saved(tmp_path, own), Inside()) == (version_id(own), "")
    path = saved(tmp_path, prefixed(own, "module."))
    assert loaded(path, Inside()) == (version_id(own), "given.pth: 'module.' taken off every name")


def test_a_prefix_of_some_names_is_not_touched(tmp_path: Path) -> None:
    """The control: nothing is left out and nothing renamed where not every name has it."""
    given = prefixed(state(), "module.")
    given["head.weight"] = torch.zeros(2)
    with pytest.raises(BadInput, match=r"9 missing: 0\.bias.*10 unexpected: head\.weight"):
        loaded(saved(tmp_path, given))


def test_counters_that_are_missing_are_0(tmp_path: Path) -> None:
    """Those of old programs; running statistics that are missing are refused."""
    given = {name: value for name, value in state().items() if "num_batches" not in name}
    model = network()
    model[1].num_batches_tracked += 7
    weights, said = load_checkpoint(saved(tmp_path, given), model)
    assert said == "given.pth: num_batches_tracked of 1 layers set to 0"
    assert version_id(weights) == RIGHT and int(weights["1.num_batches_tracked"]) == 0
    del given["1.running_var"]
    with pytest.raises(BadInput, match=r"2 missing: 1\.num_batches_tracked, 1\.running_var"):
        loaded(saved(tmp_path, given))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(tmp_path: Path, dtype: torch.dtype) -> None:
    """To the very numbers that were stored, and it is said; counters stay."""
    half = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state().items()}
    name = str(dtype).removeprefix("torch.")
    found, said = loaded(saved(tmp_path, half))
    assert said == f"given.pth: 8 tensors widened from {name} to float32"
    wide = {name: value.float() if value.is_floating_point() else value for name, value in half.items()}
    assert found == version_id(wide) != RIGHT


def test_all_of_it_at_once_is_one_line(tmp_path: Path) -> None:
    """Wrapped, prefixed, half and without counters; each is said, in the order in which it was done."""
    half = {f"module.{n}": v.half() for n, v in state().items() if "num_batches" not in n}
    assert loaded(saved(tmp_path, {"model": half}))[1] == (
        "given.pth: taken from 'model'; 'module.' taken off every name; num_batches_tracked of 1 layers set "
        "to 0; 8 tensors widened from float16 to float32"
    )


def test_what_does_not_fit_is_listed_short(tmp_path: Path) -> None:
    """Counts of each kind and five names at most; the model stays as it was."""
    given = {f"layer{i}.weight": torch.zeros(1) for i in range(12)}
    given |= {"0.weight": torch.zeros(7, 7)}
    model = network()
    before = version_id(model.state_dict())
    with pytest.raises(BadInput) as caught:
        load_checkpoint(saved(tmp_path, given), model)
    said = str(caught.value)
    listed = "0.bias, 1.bias, 1.num_batches_tracked, 1.running_mean, 1.running_var and 3 more"
    assert f"8 missing: {listed}" in said
    listed = "layer0.weight, layer1.weight, layer10.weight, layer11.weight, layer2.weight and 7 more"
    assert f"12 unexpected: {listed}" in said
    assert "1 mis-shaped: 0.weight: [7, 7] where the model has [4, 3]" in said
    assert "layer9" not in said and version_id(model.state_dict()) == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.to(torch.int8), "torch.int8"),
        (lambda w: w.to(torch.float8_e4m3fn), "torch.float8_e4m3fn"),
        (lambda w: w > 0, "torch.bool"),
        (lambda w: w * torch.nan, "not finite"),
    ],
    ids=["int8", "fp8", "bool", "nan"],
)
def test_no_number_of_a_model_is_refused_inside_as_well(tmp_path: Path, change: Any, said: str) -> None:
    """What a flat file is refused for a wrapped one is refused for too."""
    bad = {**state(), "0.weight": change(state()["0.weight"])}
    with pytest.raises(BadInput, match=f"tensor 'module.0.weight' is .*{said}"):
        loaded(saved(tmp_path, {"state_dict": prefixed(bad, "module.")}))
    bad = {**state(), "1.running_var": -state()["1.running_var"]}
    with pytest.raises(BadInput, match=r"running_var' is -1\.0; allowed: at least 0"):
        loaded(saved(tmp_path, {"ema": bad}))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """The weights in two files with an index."""
    given = state()
    files = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(given)}
    for file in set(files.values()):
        part = {name: value for name, value in given.items() if files[name] == file}
        (tmp_path / file).write_bytes(weights_to_bytes(part))
    index = {"metadata": {"total_size": 1}, "weight_map": files}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    return tmp_path


def test_shards_with_an_index_are_joined(shards: Path) -> None:
    """By the index, or by the folder that it is in."""
    index = shards / "model.safetensors.index.json"
    assert loaded(index) == (RIGHT, "model.safetensors.index.json: joined from 2 files")
    assert loaded(shards)[0] == RIGHT


def test_shards_that_are_not_what_the_index_says(shards: Path) -> None:
    """A tensor more or less, a file that is not there, or one elsewhere on the disk: each is refused."""
    index = shards / "model.safetensors.index.json"
    said = json.loads(index.read_text())
    first = "model-00001-of-00002.safetensors"

    def refused(weight_map: Any, match: str) -> None:
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(BadInput, match=match):
            read_checkpoint(index)

    files = said["weight_map"]
    refused({n: f for n, f in files.items() if n != "0.weight"}, "tensor of model-00001.* is '0.weight'")
    refused({**files, "extra": first}, "tensor 'extra' is 'model-00001")
    refused({**files, "extra": "model-00003-of-00003.safetensors"}, "No such file")
    for elsewhere in ("../w.safetensors", "/etc/w.safetensors", "w.bin", 3):
        refused({**files, "extra": elsewhere}, "weight_map is .*beside the index")
    index.write_text("{")
    with pytest.raises(BadInput, match="JSON with a weight_map"):
        read_checkpoint(index)
    index.unlink()
    with pytest.raises(BadInput, match=r"a folder with one \*\.index\.json; it has none"):
        read_checkpoint(shards)
