"""The tamperings of `benchmarks.front_door`: each of one certificate is found, and what is true is true."""

from __future__ import annotations

from itertools import takewhile

from benchmarks.tamperings import CONTROL, ORIGIN, made, tamperings
from rayunlearn.evidence.keys import SigningKey
from rayunlearn.evidence.tree import verify_consistency

KEY = SigningKey.new(ORIGIN)


def test_every_tampering_with_a_certificate_is_found() -> None:
    """By others, by the operator, with keys and with models; the controls among them are true."""
    every = takewhile(lambda t: "r2" not in t.name.split()[-1], tamperings(KEY, 64))
    found = {tampering.name: tampering.found() for tampering in every}
    controls = [kind for name, kind in found.items() if name.startswith(CONTROL)]
    assert len(controls) == 4 and not any(controls)
    assert len(found) > 150
    assert [n for n, kind in found.items() if kind is None and not n.startswith(CONTROL)] == []


def test_the_log_is_one_that_grows() -> None:
    """Certificates in a log of another size are of another log: what is spread elsewhere is a fork."""
    small, large = made(KEY, 64), made(KEY, 128)
    assert verify_consistency(64, small.tree.root(), 64, small.tree.root(), [])
    assert not verify_consistency(64, small.tree.root(), 128, large.tree.root(), large.tree.consistency(64))
