"""A training that says what it is made of is saved whole, as copies, and goes on to the same bits."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn

from rayunlearn.errors import BadInput
from rayunlearn.models.resuming import MeanLoss, Stepped, copied_weights


class Fit(Stepped):
    """A linear layer with BatchNorm, pulled to 0 by noise of a step's own; one attribute of each kind."""

    saved = {
        "model": "model", "optimizers": "optimizers", "taken": "taken", "seen": "seen",
        "tally": ("_loss", "count", "kept"), "later": "later",
    }  # fmt: skip
    steps = 6

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
        self.optimizers = {"adam": torch.optim.Adam(self.model.parameters(), lr=0.1)}
        self.taken = 0
        self.seen = [torch.full((2,), float(seed))]
        self._loss, self.count, self.kept = MeanLoss(), 0, {"mean": torch.zeros(2)}
        self.later: Any = None

    def _step(self) -> None:
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(self.taken))
        loss = (self.model(x) + self.seen[-1]).square().mean()
        self.optimizers["adam"].zero_grad()
        loss.backward()
        self.optimizers["adam"].step()
        self._loss.add(loss)
        self.count += len(x)
        self.seen.append(x.mean(dim=0)[:2])
        self.kept["mean"].lerp_(self.seen[-1], 0.5)


def end(fit: Fit) -> tuple[Any, ...]:
    """All that may differ, as plain data."""
    weights = {name: value.tolist() for name, value in fit.model.state_dict().items()}
    seen = [value.tolist() for value in fit.seen]
    return weights, seen, fit.count, fit.kept["mean"].tolist(), fit._loss.take()


def test_what_is_loaded_goes_on_to_the_same_bits() -> None:
    """From another start, through a file; left out, for control, each part of the state shows."""
    whole, first = Fit(0), Fit(0)
    whole.advance(1, 6)
    expected = end(whole)
    first.advance(1, 3)
    buffer = io.BytesIO()
    torch.save(first.state(), buffer)

    def resumed(without: str | None = None) -> tuple[Any, ...]:
        buffer.seek(0)
        state, again = torch.load(buffer, weights_only=True), Fit(1)
        again.advance(1, 1)
        if without is not None:
            state[without] = again.state()[without]
        again.load(state)
        again.advance(again.taken + 1, 6)
        return end(again)

    assert resumed() == expected
    for part in Fit.saved.keys() - {"later"}:
        assert resumed(part) != expected, part


def test_a_state_is_a_copy() -> None:
    """Neither the training that was saved nor the one that was loaded changes it."""
    fit, other = Fit(0), Fit(1)
    fit.advance(1, 2)
    state = fit.state()
    kept = copy.deepcopy(state)
    other.load(state)
    for training in (fit, other):
        training.advance(3, 5)
    assert torch.equal(state["seen"][-1], kept["seen"][-1]) and len(state["seen"]) == 3
    assert torch.equal(state["tally"][2]["mean"], kept["tally"][2]["mean"])
    assert all(torch.equal(value, kept["model"][name]) for name, value in state["model"].items())
    moments, before = (s["optimizers"]["adam"]["state"][0]["exp_avg"] for s in (state, kept))
    assert torch.equal(moments, before)
    assert not torch.equal(fit.model[0].weight, state["model"]["0.weight"]), "the training has moved"


def test_weights_are_copied() -> None:
    """The module may go on."""
    layer = nn.Linear(2, 1)
    weights = copied_weights(layer)
    with torch.no_grad():
        layer.weight += 1
    assert not weights["weight"].requires_grad and torch.equal(weights["weight"] + 1, layer.weight.detach())


@pytest.mark.parametrize("steps", [(2, 3), (0, 1), (1, 7)])
def test_steps_come_one_after_another(steps: tuple[int, int]) -> None:
    """Not the next one, none, and one too many are refused, and nothing is trained."""
    fit = Fit(0)
    with pytest.raises(BadInput, match=r"steps is .*; allowed: from 1, at most to 6"):
        fit.advance(*steps)
    assert fit.taken == 0 and fit._loss.take() is None


def test_the_mean_begins_anew() -> None:
    """Of 1 and 3 it is 2; then of 5 alone; then of nothing."""
    mean = MeanLoss()
    for loss in (1.0, 3.0):
        mean.add(torch.tensor(loss))
    assert mean.take() == 2.0
    mean.add(torch.tensor(5.0))
    assert (mean.take(), mean.take()) == (5.0, None)
