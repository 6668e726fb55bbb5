"""Where a process computes: a GPU that it was given, or the CPU."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import ray
import torch

from rayunlearn.execution.device import own_device


@pytest.mark.parametrize(
    ("available", "in_ray", "assigned", "expected"),
    [
        (False, False, [], "cpu"),
        (False, True, ["0"], "cpu"),
        (True, False, [], "cuda"),
        (True, True, ["0"], "cuda"),
        (True, True, [], "cpu"),
    ],
)
def test_a_process_of_ray_takes_the_gpu_that_it_was_assigned(
    monkeypatch: pytest.MonkeyPatch, available: bool, in_ray: bool, assigned: list[str], expected: str
) -> None:
    """A GPU that the machine has is another task's, unless Ray assigned it; outside Ray it is free."""
    context = SimpleNamespace(get_accelerator_ids=lambda: {"GPU": assigned})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(ray, "is_initialized", lambda: in_ray)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    assert own_device() == expected
