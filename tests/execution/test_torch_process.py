"""Optimizers of Ray's processes: without torch's compiler, to the same bits."""

from __future__ import annotations

import subprocess
import sys

from tests.serving.tiny import ROOT, environment
from tests.waiting import HANG_S

STEPS = """
import sys
import torch
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau
from rayunlearn.execution.torch_process import set_up

if sys.argv[1] == "set up":
    set_up(1)
    set_up(1)
for kind in (SGD, Adam, AdamW):
    for options in ({}, {"foreach": False}, {"weight_decay": 0.1}):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        optimizer = kind(model.parameters(), lr=0.1, **options)
        ended = []
        optimizer.register_step_post_hook(lambda *of: ended.append(of))
        OneCycleLR(optimizer, 0.1, total_steps=4).step()
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(1, 3)).square().sum().backward()
            optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
        assert len(ended) == 3 and torch.is_grad_enabled()
        print(kind.__name__, *(p.detach().numpy().tobytes().hex() for p in model.parameters()))
print("torch._dynamo" in sys.modules)
"""


def steps(how: str) -> list[str]:
    """What a new process says of a few steps of each optimizer, and whether torch's compiler is there."""
    command = [sys.executable, "-c", STEPS, how]
    ended = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=HANG_S, check=True
    )
    return ended.stdout.split("\n")[:-1]


def test_optimizers_work_as_before_without_the_compiler() -> None:
    """To the bit, with their hooks, schedules and states; negative control: torch's own import it."""
    *ours, imported = steps("set up")
    *theirs, there = steps("as they are")
    assert ours == theirs and len(ours) == 9
    assert (imported, there) == ("False", "True")
