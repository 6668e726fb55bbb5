"""Other machines' arithmetic on this one, and other root seeds, for `make portable`.

A figure that training gives hangs on how each sum is rounded, and that on the CPU's instruction set, on the
libraries and on the number of threads.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

SETTING = "RAYUNLEARN_TEST_ARITHMETIC"
ROOT_SEED = "RAYUNLEARN_TEST_SEED"


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """How a process computes sums of floats.

    Attributes:
        environment: variables that oneDNN, ATen and MKL read when they are loaded.
        onednn: whether convolutions and linear layers are oneDNN's, or ATen's own with BLAS; of the tests'
            process alone, not of Ray's workers.
        threads: of torch; likewise.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    onednn: bool = True
    threads: int = 1


SETTINGS = {
    "default": Arithmetic(),
    "avx2": Arithmetic(environment={"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}),
    "sse41": Arithmetic(environment={"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"}),
    "no-onednn": Arithmetic(onednn=False),
    "two-threads": Arithmetic(threads=2),
    "mkl-compatible": Arithmetic(environment={"MKL_CBWR": "COMPATIBLE"}, onednn=False),
}


def chosen() -> Arithmetic:
    """The setting that the environment names, `default` without one.

    Raises:
        ValueError: there is no such setting.
    """
    name = os.environ.get(SETTING, "default")
    if name not in SETTINGS:
        raise ValueError(f"{SETTING} is {name!r}; allowed: {', '.join(SETTINGS)}")
    return SETTINGS[name]


def root_seed() -> int:
    """The root seed that the environment names, 0 without one.

    Raises:
        ValueError: it is no number from 0.
    """
    text = os.environ.get(ROOT_SEED, "0")
    if not text.isdecimal():
        raise ValueError(f"{ROOT_SEED} is {text!r}; allowed: a whole number from 0")
    return int(text)
