"""What channels last save on CPUs: `python -m benchmarks.memory_format`.

Training steps of the classifiers and generators at the sizes of the reductions in `jobs/reproduce.py`, with
their channels last, as they are built, and first, in turns. Compared are CPU seconds, so that other work on
the machine counts little.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import tyro
from torch import nn

from rayunlearn.models.classifiers import ClassifierSpec, build_classifier
from rayunlearn.models.generators import GeneratorSpec, build_generator
from rayunlearn.runtime.machine import machine_facts

CLASSIFIERS = (
    ("allcnn", 0.25, 1, 8, 64),
    ("allcnn", 0.125, 1, 28, 128),
    ("allcnn", 0.125, 3, 32, 128),
    ("resnet9", 0.125, 1, 28, 128),
    ("lenet", 1.0, 1, 28, 256),
    ("lenet5_bn", 1.0, 1, 28, 128),
    ("preactresnet18", 0.125, 1, 28, 64),
    ("resnet50", 0.125, 1, 28, 64),
)
"""Name, width, channels and size of images, batch."""

GENERATORS = ((0.25, 1, 8, 128), (0.125, 1, 28, 128), (0.125, 3, 32, 128))
"""Width, channels and size of images, batch."""

AT_MOST = 0.95
"""Of the CPU seconds with channels first, for each network."""


Step = Callable[[torch.memory_format], Callable[[], None]]
"""Given a layout, what takes a step with it."""


def classifier_step(name: str, width: float, channels: int, size: int, batch: int) -> Step:
    """A classifier's training step."""
    normal = (0.5,) * channels
    spec = ClassifierSpec(
        name=name, width=width, in_channels=channels, image_size=size, num_classes=10, mean=normal, std=normal
    )
    return lambda form: _step(build_classifier(spec, 0), torch.randn(batch, channels, size, size), form)


def generator_step(width: float, channels: int, size: int, batch: int) -> Step:
    """A generator's training step."""
    spec = GeneratorSpec(z_dim=128, width=width, channels=channels, image_size=size, low=-1.0, high=1.0)
    return lambda form: _step(build_generator(spec, 0), torch.randn(batch, 128), form)


def _step(network: nn.Module, x: torch.Tensor, form: torch.memory_format) -> Callable[[], None]:
    network = network.to(memory_format=form).train()
    optimizer = torch.optim.AdamW(network.parameters())

    def step() -> None:
        optimizer.zero_grad()
        network(x).square().mean().backward()
        optimizer.step()

    return step


def cpu_seconds(step: Callable[[], None], at_least_s: float) -> float:
    """Of one step, after two that do not count."""
    step()
    step()
    began, steps = time.process_time(), 0
    while time.process_time() - began < at_least_s:
        step()
        steps += 1
    return (time.process_time() - began) / steps


def main(
    turns: int = 5, at_least_s: float = 0.5, out: Path = Path("docs/results/memory_format.json")
) -> None:
    """Let both take turns and print the ratios.

    Args:
        turns: of each network with each layout.
        at_least_s: CPU seconds of a turn.
        out: where the figures are stored.
    """
    torch.set_num_threads(1)
    cases = {f"{c[0]}, width {c[1]:g}, {c[2]}x{c[3]}x{c[3]}": classifier_step(*c) for c in CLASSIFIERS}
    cases |= {f"generator, width {g[0]:g}, {g[1]}x{g[2]}x{g[2]}": generator_step(*g) for g in GENERATORS}
    figures: dict[str, dict[str, Any]] = {}
    for name, make in cases.items():
        pairs = [
            [cpu_seconds(make(form), at_least_s) for form in (torch.contiguous_format, torch.channels_last)]
            for _ in range(turns)
        ]
        ratio = median(last / first for first, last in pairs)
        figures[name] = {"median_ratio": ratio, "channels_first_s": [p[0] for p in pairs]}
        print(f"{ratio:.2f} of the CPU seconds with channels first: {name}", flush=True)
    checks = {
        f"at most {AT_MOST} of the CPU seconds with channels first, for each": all(
            case["median_ratio"] <= AT_MOST for case in figures.values()
        )
    }
    result = {"benchmark": "memory_format", "figures": figures, "checks": checks, "machine": machine_facts()}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    for claim, holds in checks.items():
        print(f"{'yes' if holds else 'NO '} {claim}")


if __name__ == "__main__":
    tyro.cli(main)
