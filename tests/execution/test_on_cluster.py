"""unlearn() beside Ray: the weights that a cluster serves, the same bits on one, and nothing left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import ray
from ray.util.placement_group import placement_group_table

from rayunlearn.execution.cluster import Placement, open_executor
from rayunlearn.ledger.schemas import without_volatile
from rayunlearn.models import given as given_networks
from tests.api.tiny import IMAGES, SHORTER, Stops, given, plain, published, served, state
from tests.serving.tiny import ROOT, environment, rows, same_bits
from tests.waiting import HANG_S

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster", "few_draws")]


def test_it_gives_the_weights_that_are_served() -> None:
    """Bit for bit those of a request that Ray served from a storage location, and the ledger's checkpoints.

    Another seed, for control, gives others.
    """
    store, outcome = served(opened=lambda: open_executor(Placement.COLOCATED, cpus_per_role=0.5))
    found = given()
    assert outcome.version is not None and outcome.reason is None, outcome
    assert found.passed and found.reasons == () and found.verdict.passed
    assert same_bits(state(found.model), published(store, outcome))
    own = without_volatile("checkpoints", found.checkpoints).to_pylist()
    assert own == rows(store, "checkpoints") and len(own) == 3
    (begun,) = rows(store, "runs", event="started")
    assert found.seed == begun["seed"] and found.checkpoints["run_id"][0].as_py() == begun["run_id"]
    assert not same_bits(state(given(seed=1).model), state(found.model))


def test_a_cluster_gives_the_same_bits() -> None:
    """Of a model of this package and of a network of one's own; another seed, for control, gives others."""
    more = ("publish_refused=true", *SHORTER)
    inline, on_ray = given("digits", *more), given("digits", *more, executor="ray")
    assert same_bits(state(inline.model), state(on_ray.model))
    assert inline.checkpoints.drop(["at"]) == on_ray.checkpoints.drop(["at"])
    own = {"model": plain(), "input": IMAGES, "forget": [1]}
    first, second = given("digits", *more, **own), given("digits", *more, executor="ray", **own)
    other = given("digits", *more, executor="ray", seed=1, **own)
    assert same_bits(state(first.model), state(second.model))
    assert not same_bits(state(first.model), state(other.model))


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No actor, no placement group, no file here, no network that is held; the connection stays."""
    monkeypatch.chdir(tmp_path)
    before = {name for name, group in placement_group_table().items() if group["state"] != "REMOVED"}
    with pytest.raises(KeyboardInterrupt):
        given(
            "digits", *SHORTER, model=plain(), input=IMAGES, forget=[1], progress=Stops(), executor="ray"
        )
    assert ray.is_initialized() and given_networks._HELD == {} and list(tmp_path.iterdir()) == []
    groups = placement_group_table()
    assert {name for name, group in groups.items() if group["state"] != "REMOVED"} == before
    assert len(groups) > len(before), "one was made"


NET = """
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.out = nn.Linear(6, 4)

    def forward(self, x):
        return self.out(self.body(x).flatten(1))
"""
ALONE = """
import os
from pathlib import Path
import torch
from own_net import Net
from tests.api.tiny import IMAGES, SHORTER, given, state
from tests.serving.tiny import same_bits

torch.set_num_threads(1)
options = {"model": Net(), "input": IMAGES, "forget": [1]}
more = ("publish_refused=true", "stand_ins.steps=1", *SHORTER)
first = given("digits", *more, **options)
before = dict(os.environ)
second = given("digits", *more, executor="ray", **options)
import ray
children = "".join(file.read_text() for file in Path("/proc/self/task").glob("*/children"))
print(same_bits(state(first.model), state(second.model)), ray.is_initialized(), dict(os.environ) == before)
print(type(second.model).__name__, children.split())
"""


@pytest.mark.slow
def test_a_local_cluster_is_started_and_ended(tmp_path: Path) -> None:
    """Where none is connected; the network's code is a file of the caller's, beside the script."""
    (tmp_path / "own_net.py").write_text(NET)
    (tmp_path / "script.py").write_text(ALONE)
    ended = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=environment(PYTHONPATH=str(ROOT)), text=True,
        capture_output=True, timeout=2 * HANG_S,
    )  # fmt: skip
    assert ended.stdout.split("\n") == ["True False True", "Net []", ""], ended.stdout + ended.stderr
