"""unlearn(): the weights that are served, for any module, and nothing of it is left behind."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import rayunlearn
from rayunlearn.errors import BadInput
from rayunlearn.methods.gkt.settings import GatedInversionSettings
from rayunlearn.models import given as given_networks
from tests.api.tiny import IMAGES, SHORTER, Stops, given, original, plain, published, served, state
from tests.models.own_networks import Small, Tokens
from tests.serving.tiny import ROOT, environment, same_bits

pytestmark = pytest.mark.usefixtures("few_draws")


def children() -> set[str]:
    """Processes that this one has started."""
    found = Path("/proc/self/task").glob("*/children")
    return {pid for file in found for pid in file.read_text().split()}


@pytest.mark.parametrize("name", ["digits_partial_restart", "digits_gkt"])
def test_it_gives_the_weights_that_are_served(name: str) -> None:
    """Where the judge chooses the layers, and where there is no bank; another seed gives others.

    Both in this process; tests/execution/test_executor.py compares with what Ray serves.
    """
    store, outcome = served(name)
    assert outcome.version is not None, outcome
    found = given(name)
    assert same_bits(state(found.model), published(store, outcome))
    if name == "digits_gkt":
        assert not same_bits(state(given(name, seed=1).model), state(found.model))


@pytest.mark.parametrize("make", [None, lambda: Small(4, wide=5)])
def test_a_network_of_ones_own(make: Any) -> None:
    """It is left as it was, and what is given is of its class, under its own names, with other weights."""
    torch.manual_seed(0)
    model = Small(4, wide=5).train()
    before = state(model)
    found = given(
        "digits", "publish_refused=true", *SHORTER, model=model, forget=[1], make=make,
        input=rayunlearn.Input(shape=(1, 8, 12), mean=(0.3,), std=(0.4,)),
    )  # fmt: skip
    assert same_bits(state(model), before) and model.training
    assert type(found.model) is Small and not found.model.training
    assert found.model.state_dict().keys() == before.keys() and not same_bits(state(found.model), before)
    assert found.model(torch.zeros(2, 1, 8, 12))["logits"].shape == (2, 4)
    assert given_networks._HELD == {}


def test_what_cannot_be_drawn_anew_is_asked_for() -> None:
    """A class token has no `reset_parameters`: the error names it; with `make`, for control, it is served."""
    images = rayunlearn.Input(shape=(1, 8, 8), mean=(0.3,), std=(0.4,))
    options = {"model": Tokens(3), "input": images, "forget": [1]}
    with pytest.raises(BadInput, match=r"token of the model is 'a parameter of Tokens'.*pass make="):
        given("digits", **options)
    found = given("digits", "publish_refused=true", *SHORTER, make=lambda: Tokens(3), **options)
    assert isinstance(found.model, Tokens) and len(found.checkpoints) > 0


def test_the_caller_is_left_as_it_was() -> None:
    """Random number generators, threads, gradients' mode, and the model; what follows a call is the same."""
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    before = (
        torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate(), torch.get_num_threads()
    )  # fmt: skip
    weights, threads, processes = state(original()), threading.active_count(), children()
    with torch.no_grad():
        given("digits", *SHORTER)
        assert not torch.is_grad_enabled()
    after = torch.get_rng_state(), np.random.get_state()[1], random.getstate(), torch.get_num_threads()
    assert torch.equal(before[0], after[0]) and (before[1] == after[1]).all() and before[2:] == after[2:]
    assert same_bits(weights, state(original()))
    assert threading.active_count() == threads and children() == processes


def test_a_refused_result_says_why() -> None:
    """By the gate, by the stopping rule, by what the version shows; no model, unless it is asked for."""
    strict = {"gate.max_loss": 0.001, "gate.max_forget": 0}
    found = given("digits_gkt", settings=strict)
    assert not found.passed and found.model is None and not found.verdict.passed
    assert len(found.reasons) == 1 and found.reasons[0].startswith("gate: predicted D_r is")
    asked = given("digits_gkt", settings={**strict, "publish_refused": True})
    assert asked.reasons == found.reasons and not asked.passed and asked.model is not None
    stopped = given("digits_gkt", settings={"stopping.min_retain": 1})
    assert stopped.reasons[0].startswith("stopping rule: ") and stopped.verdict is None
    assert stopped.model is None and len(stopped.checkpoints) == 3
    blind = given("digits_gkt", settings={"inversion.min_confidence": 0.999, "inversion.iterations": 1})
    assert blind.reasons[0].startswith("synthesis: ") and len(blind.checkpoints) == 0


def test_settings_are_those_of_the_recipe_but_for_what_is_given() -> None:
    """A setting and a method by name are in the result, which has the time of each phase."""
    found = given(
        "digits", *SHORTER, method="gkt",
        settings={"gkt.cycles": 2, "validation.checkpoint_every": 1, "stopping.patience": None},
    )  # fmt: skip
    assert found.recipe.method == "gkt" and found.recipe.validation.checkpoint_every == 1
    assert found.recipe.stopping.patience is None
    assert found.checkpoints["step"].to_pylist() == [1, 2]
    assert list(found.seconds) == ["synthesise", "prepare", "unlearn", "gate"]
    assert all(seconds > 0 for seconds in found.seconds.values())


def test_any_number_of_classes_has_a_name() -> None:
    """By which the request is known: no longer than an id may be, and another for other classes."""
    from rayunlearn.api.unlearn import _name

    assert _name((0, 3)) == "forget-0-3"
    many, others = _name(tuple(range(90))), _name(tuple(range(91)))
    assert len(many) <= 128 and many != others


def test_the_default_recipe_is_that_of_the_images() -> None:
    """Of digits and of natural images, as the documentation says."""
    from rayunlearn.api.arguments import recipe_of

    sizes = {8: "digits", 27: "digits", 28: "cifar10", 224: "cifar10"}
    for size, name in sizes.items():
        images = rayunlearn.Input(shape=(3, size, size), mean=(0.5,) * 3, std=(0.5,) * 3)
        assert recipe_of(None, None, None, images).name == name
    assert isinstance(recipe_of(None, None, None, IMAGES).method_settings, GatedInversionSettings)


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No process, no thread, no file, no network that is held; it is the caller's to see."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    processes, threads = children(), threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        given("digits", *SHORTER, model=plain(), input=IMAGES, forget=[1], progress=Stops())
    assert list(tmp_path.iterdir()) == [] and given_networks._HELD == {}
    assert children() == processes and threading.active_count() == threads


BAD = [
    ({"model": 3}, "model is 3; allowed: a torch.nn.Module"),
    ({"model": nn.Flatten()}, "model is 'Flatten'; allowed: a module with parameters"),
    ({"model": plain()}, "input is None; allowed: rayunlearn.Input"),
    ({"input": (1, 8, 8)}, r"input is \(1, 8, 8\); allowed: rayunlearn.Input"),
    ({"input": replace(IMAGES, mean=(0.5,))}, "input is .*allowed: None, or what the model itself says"),
    ({"forget": 3}, r"forget is 3; allowed: class numbers, .*\[3\]"),
    ({"forget": []}, r"forget is \[\]; allowed: at least one class number"),
    ({"forget": [True]}, r"forget is \[True\]; allowed: class numbers"),
    ({"forget": [3, 3]}, r"forget is \[3, 3\]; allowed: class numbers, different"),
    ({"forget": [12]}, r"forget is \[12\]; allowed: classes of the model, 0 to 9"),
    ({"forget": range(10)}, "forget is .*; allowed: a target that leaves at least 2 classes"),
    ({"forgotten": [3]}, r"forget is \[3\]; allowed: classes not forgotten already"),
    ({"forgotten": [10]}, r"forgotten is \[10\]; allowed: classes of the model, 0 to 9"),
    (
        {"model": plain(), "input": IMAGES, "forget": [1], "make": lambda: plain(classes=5)},
        "make is .*; allowed: a function that builds a network with the model's weights",
    ),
    (
        {"model": plain(), "input": IMAGES, "forget": [1], "make": lambda: 3},
        "make is .*; allowed: a function that builds .*a torch.nn.Module",
    ),
    ({"forgotten": [-1]}, r"forgotten is \[-1\]"),
    ({"seed": "a"}, "seed is 'a'; allowed: a whole number"),
    ({"recipe": "digitz"}, "recipe is 'digitz'; allowed: 'digits'"),
    ({"recipe": 3}, "recipe is 3; allowed: the name of a recipe"),
    ({"method": "gkd"}, "method is 'gkd'; allowed: 'gkt'"),
    ({"method": "fine_tune"}, "method is 'fine_tune'; allowed: .*gated_inversion.*declares retain"),
    ({"settings": 3}, "settings is 3; allowed: a mapping"),
    ({"settings": {"gkt.cycle": 3}}, "settings: setting is 'gkt.cycle'; allowed: 'gkt.cycles'"),
    ({"settings": {"gkt.cycles": "x"}}, "settings: gkt.cycles is 'x'; allowed: .*integer"),
    ({"settings": {"gkt.cycles": object}}, "settings: gkt.cycles is <class 'object'>; allowed: a number"),
    ({"device": "gpu9"}, "device is 'gpu9'; allowed: a device of this machine"),
    ({"executor": "dask"}, "executor is 'dask'; allowed: 'inline', 'ray'"),
    ({"progress": "yes"}, "progress is 'yes'; allowed: True, False, None"),
    ({"make": 3}, "make is 3; allowed: a function without arguments"),
    ({"make": plain}, "make is .*; allowed: None for a model of this package"),
    ({"request_id": "a/b"}, "request_id is 'a/b'"),
    ({"request_id": ""}, "request_id is ''"),
]


@pytest.mark.parametrize(("wrong", "said"), BAD, ids=[str(n) for n in range(len(BAD))])
def test_bad_input_is_told(wrong: dict[str, Any], said: str) -> None:
    """Each error names the argument, its value and what is allowed, before anything is trained."""
    with pytest.raises(BadInput, match=said):
        given("digits", **wrong)


def test_images_that_a_network_does_not_take() -> None:
    """The error speaks of the argument, not of a flag of the command line."""
    images = rayunlearn.Input(shape=(3, 8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(BadInput, match=r"^unlearn\(\): input is '3,8,8'; allowed: what the network takes"):
        given("digits", model=plain(), input=images, forget=[1])


LAZY = """
import sys
import rayunlearn
assert {"unlearn", "audit", "load", "Input"} <= set(dir(rayunlearn))
print(sorted(m for m in ("ray", "torch", "pyarrow", "numpy") if m in sys.modules))
rayunlearn.Input
print("torch" in sys.modules)
rayunlearn.unlearn
print("torch" in sys.modules, "ray" in sys.modules)
"""


def test_the_import_brings_neither_ray_nor_torch() -> None:
    """Not before unlearn() is used, which brings torch and no Ray; a name that is none is refused."""
    ended = subprocess.run(
        [sys.executable, "-c", LAZY], cwd=ROOT, env=environment(), text=True, capture_output=True
    )
    assert ended.stdout.split("\n") == ["[]", "False", "True False", ""], ended.stderr
    with pytest.raises(AttributeError, match="no attribute 'unlearned'"):
        rayunlearn.unlearned  # noqa: B018


def test_a_bar_is_shown_where_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """Not in a log by default; with progress=True each phase is told, on standard error."""
    given("digits", *SHORTER, progress=None)
    assert capsys.readouterr() == ("", "")
    given("digits", *SHORTER, progress=True)
    out, err = capsys.readouterr()
    assert out == "" and re.search(r"forget 3 \| .*\(2 steps\)", err)
