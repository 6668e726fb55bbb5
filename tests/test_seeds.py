"""Seeds depend on what a draw is for, and on nothing else."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading

import torch
from hypothesis import given
from hypothesis import strategies as st

from rayunlearn.seeds import derive_seed, generator, seeded_default_generators
from tests.waiting import HANG_S

PARTS = st.lists(st.integers() | st.text(), max_size=4).map(tuple)


def test_a_seed_is_its_documented_hash() -> None:
    """SHA-256 of length-prefixed typed parts, its first 8 bytes big-endian, less the last bit.

    Written out here so that a changed derivation, which would change every stored run, cannot pass.
    """
    digest = hashlib.sha256(b"5:int:7;9:str:gkt z;5:int:0;6:int:12;").digest()
    assert derive_seed(7, "gkt z", 0, 12) == int.from_bytes(digest[:8], "big") // 2


@given(st.integers(), PARTS, st.integers(), PARTS)
def test_seeds_collide_for_equal_purposes_only(root: int, what: tuple, other_root: int, other: tuple) -> None:
    """Two purposes have one seed iff they are the same parts of the same types."""
    same = (root, *what) == (other_root, *other)
    assert (derive_seed(root, *what) == derive_seed(other_root, *other)) == same
    assert 0 <= derive_seed(root, *what) < 2**63


def test_parts_do_not_run_together() -> None:
    """What joining with a separator would confuse: moved borders, a separator inside, numbers as text."""
    purposes = [
        (0, "ab", "c"), (0, "a", "bc"), (0, "a;b", "c"), (0, "a", "b;c"), (0, "abc"), (0, "a", 1),
        (0, "a", "1"), (0, "a1"), (0, "a", 11), (0, "a", 1, 1), (1, "a", 0), (10, "a"), (0, "", "a"),
        (0, "a", ""),
    ]  # fmt: skip
    assert len({derive_seed(*p) for p in purposes}) == len(purposes)
    assert len({";".join(map(str, p)) for p in purposes}) < len(purposes)


def test_generators_are_their_seeds_and_touch_nothing_else() -> None:
    """Equal purposes draw equal numbers, other purposes others, and the global generator stays."""
    before = torch.get_rng_state()
    first = torch.randn(8, generator=generator(3, "z", 1))
    assert torch.equal(first, torch.randn(8, generator=generator(3, "z", 1)))
    for other in (generator(3, "z", 2), generator(4, "z", 1), generator(3, "y", 1)):
        assert not torch.equal(first, torch.randn(8, generator=other))
    assert torch.equal(before, torch.get_rng_state())
    assert generator(0).device.type == "cpu"


def test_seeds_are_the_same_in_another_process() -> None:
    """Python's own `hash` of a text differs from process to process; a seed does not."""
    script = "from rayunlearn.seeds import derive_seed; print(derive_seed(5, 'gkt', 2), hash('gkt'))"
    salt = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONHASHSEED": salt},
        capture_output=True,
        text=True,
        check=True,
    )
    seed, salted = map(int, done.stdout.split())
    assert seed == derive_seed(5, "gkt", 2)
    assert salted != hash("gkt")


def test_default_generators_are_seeded_for_one_thread_at_a_time() -> None:
    """Runs side by side in one process build their models by their own seeds, and leave the generators be."""
    before = torch.get_rng_state()
    expected = {}
    for seed in (1, 2):
        with seeded_default_generators(seed):
            expected[seed] = torch.rand(4)
    assert not torch.equal(expected[1], expected[2])
    inside, drawn = threading.Event(), {}

    def second() -> None:
        inside.wait()
        with seeded_default_generators(2):
            drawn[2] = torch.rand(4)

    thread = threading.Thread(target=second)
    thread.start()
    with seeded_default_generators(1):
        inside.set()
        thread.join(timeout=0.3)
        assert drawn == {}  # it waits
        with seeded_default_generators(1):  # whoever is inside may go on
            pass
        drawn[1] = torch.rand(4)
    thread.join(timeout=HANG_S)
    assert {seed: values.tolist() for seed, values in drawn.items()} == {
        seed: values.tolist() for seed, values in expected.items()
    }
    assert torch.equal(torch.get_rng_state(), before)
