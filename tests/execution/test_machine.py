"""What is recorded of the machine beside every figure."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from rayunlearn.execution.machine import instruction_set, machine_facts


def test_facts_name_cpu_and_instruction_set() -> None:
    """As torch has it in this process."""
    facts = machine_facts()
    assert facts["cpu"] and facts["instruction_set"] == instruction_set()
    assert facts["instruction_set"].startswith(torch.backends.cpu.get_cpu_capability())


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"ATEN_CPU_CAPABILITY": "default"}, "DEFAULT"),
        ({"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}, "DEFAULT, oneDNN up to SSE41"),
    ],
)
def test_limits_on_the_instruction_set_are_said(limits: dict[str, str], said: str) -> None:
    """Figures under them are not those of the whole CPU."""
    code = "from rayunlearn.execution.machine import instruction_set; print(instruction_set())"
    limiting = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")
    inherited = {name: value for name, value in os.environ.items() if name not in limiting}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=inherited | limits, capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == said
