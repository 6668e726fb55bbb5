from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import ray

from rayunlearn.errors import BadInput
from rayunlearn.execution.cluster import (
    KEEP_FREED_MEMORY,
    Placement,
    bundles,
    connect,
    open_executor,
    reserve,
    role_share,
)
from tests.serving.tiny import ROOT, environment
from tests.waiting import HANG_S

SPLIT, COLOCATED = Placement.SPLIT, Placement.COLOCATED


@pytest.mark.parametrize(
    ("gpus", "share"), [(0, 0), (0.5, 0), (1, 0.333), (2, 0.5), (2.9, 0.5), (3, 1), (8, 1)]
)
def test_role_share_of_three_roles(gpus: float, share: float) -> None:
    """k roles on n GPUs: none of 0; one each where n >= k; else floor(1000 / ceil(k / n)) / 1000."""
    assert role_share(gpus, 3) == share


@pytest.mark.parametrize("roles", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("gpus", [1, 2, 3, 4, 8])
def test_shares_fit(roles: int, gpus: int) -> None:
    """All roles fit at once, each on a single GPU; no share is so small that a GPU stays empty."""
    share = role_share(gpus, roles)
    on_one = int(1 / share + 1e-9)
    assert 0 < share <= 1 and on_one * gpus >= roles
    assert (on_one - 1) * gpus < roles


@pytest.mark.parametrize(
    ("gpus", "wanted"),
    [
        (0, [{"CPU": 1.0}] * 3),
        (1, [{"CPU": 1.0, "GPU": 0.333}] * 3),
        (2, [{"CPU": 1.0, "GPU": 0.5}] * 3),
        (3, [{"CPU": 1.0, "GPU": 1.0}] * 3),
        (8, [{"CPU": 1.0, "GPU": 1.0}] * 3),
    ],
)
def test_split_bundles(gpus: int, wanted: list[dict[str, float]]) -> None:
    """Three bundles, one for each role, with a fair share of whatever GPUs there are."""
    assert bundles(SPLIT, {"CPU": 8, "GPU": gpus}) == wanted


@pytest.mark.parametrize("gpus", [0, 1, 3])
def test_colocated_bundle(gpus: int) -> None:
    """One bundle of a CPU and, where there is one, a whole GPU."""
    assert bundles(COLOCATED, {"CPU": 2, "GPU": gpus}) == [{"CPU": 1.0} | ({"GPU": 1.0} if gpus else {})]


def test_two_cpus_for_three_roles() -> None:
    """On two CPUs three roles take half a CPU each: the default job runs on the smallest machine."""
    assert bundles(SPLIT, {"CPU": 2}) == [{"CPU": 0.5}] * 3


@pytest.mark.parametrize(
    ("asked", "has", "named"),
    [
        ({"gpus_per_role": 1.0}, {"CPU": 4.0}, ["3 x 1 GPU = 3 GPU", "0 GPU", "4 CPU"]),
        ({"gpus_per_role": 1.0}, {"CPU": 4.0, "GPU": 2.0}, ["3 x 1 GPU = 3 GPU", "2 GPU"]),
        ({"cpus_per_role": 2.0}, {"CPU": 4.0}, ["3 x 2 CPU = 6 CPU", "4 CPU"]),
        ({"cpus_per_role": -1.0}, {"CPU": 4.0}, ["-1"]),
        ({"cpus_per_role": float("inf")}, {"CPU": 4.0}, ["inf CPU", "4 CPU"]),
        ({"cpus_per_role": float("nan")}, {"CPU": 4.0}, ["nan"]),
        ({"cpus_per_role": 0.0}, {"CPU": 4.0}, ["CPU", "0.0"]),
    ],
)
def test_what_can_never_be_placed(asked: dict[str, float], has: dict[str, float], named: list[str]) -> None:
    """More than the cluster has, or nothing at all, is refused with what was asked and what there is."""
    with pytest.raises(BadInput) as caught:
        bundles(SPLIT, has, **asked)
    for text in named:
        assert text in str(caught.value)


FAKED = """
import json, os, sys
import ray
from rayunlearn.execution.cluster import KEEP_FREED_MEMORY, Placement, connect, open_executor
found = []
for gpus in (3, 1):
    connect("local", num_cpus=3, num_gpus=gpus, include_dashboard=False)
    executor = open_executor(Placement.SPLIT)
    found.append(executor.gpu_ids())
    executor.close()
    malloc = ray.get(ray.remote(lambda: [os.environ.get(name) for name in KEEP_FREED_MEMORY]).remote())
    ray.shutdown()
print(json.dumps([*found, malloc]))
"""


@pytest.mark.ray
@pytest.mark.slow
def test_gpus_are_assigned_to_roles() -> None:
    """With three GPUs (faked) each role has one of its own; with one, all three roles share it.

    Workers of a local Ray keep freed memory, but for a setting of the user's own.
    """
    ended = subprocess.run(
        [sys.executable, "-c", FAKED], cwd=ROOT, env=environment(MALLOC_TOP_PAD_="7"), capture_output=True,
        text=True, timeout=HANG_S,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    three, one, malloc = json.loads(ended.stdout.splitlines()[-1])
    assert sorted(three) == [["0"], ["1"], ["2"]]
    assert one == [["0"], ["0"], ["0"]]
    assert malloc == list((KEEP_FREED_MEMORY | {"MALLOC_TOP_PAD_": "7"}).values())


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_an_occupied_cluster_is_no_reason_to_hang() -> None:
    """A reservation that fits the cluster, but not what is free, ends in time and says what is free."""
    taken = reserve([{"CPU": 2.0}])
    try:
        with pytest.raises(BadInput, match=r"what is free within 1 s, which is 1 CPU, 0 GPU \(\w+\)"):
            reserve([{"CPU": 1.0}] * 3, timeout_s=1)
        assert ray.available_resources()["CPU"] == 1  # the failed reservation holds nothing
    finally:
        ray.util.remove_placement_group(taken)


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_closing_gives_everything_back() -> None:
    """A closed executor leaves no reservation behind, so that the next run finds its place."""
    for _ in range(2):
        executor = open_executor(SPLIT, cpus_per_role=1)
        assert len(executor.actors) == 3
        executor.close()


def test_ray_that_does_not_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its folder and its reason, also where Ray raises a bare Exception; a wrong call stays a fault."""
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "file"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    reasons = {
        "NotADirectoryError: .*file": NotADirectoryError(f"{tmp_path}/file/ray"),
        "RuntimeError: timed out": RuntimeError("timed out\nmore"),
        "Exception: the node": Exception("the node timed out"),
    }
    for said, error in reasons.items():
        monkeypatch.setattr(ray, "init", Mock(side_effect=error))
        with pytest.raises(BadInput, match=rf"--address is 'local'; .*{tmp_path}/file.*\({said}[^\n]*\)$"):
            connect()
    monkeypatch.setattr(ray, "init", Mock(side_effect=TypeError("no such option")))
    with pytest.raises(TypeError):
        connect()


@pytest.mark.parametrize("address", [":", "foo", "127.0.0.1", ":6379", "a b:1", "host:", "http//x"])
def test_what_is_no_address_is_refused_before_ray_sees_it(
    address: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In a sentence that says what is allowed, without a traceback that Ray would log; an address goes on."""
    asked = []
    monkeypatch.setattr("ray.init", lambda **options: asked.append(options["address"]))
    with pytest.raises(BadInput, match="--address is .*; allowed: HOST:PORT of a running Ray cluster"):
        connect(address)
    assert asked == [] and "Traceback" not in capfd.readouterr().err
    for fine in ("auto", "10.0.0.1:6379", "head.example:6379", "[::1]:6379", "ray://head:10001"):
        connect(fine)
    assert asked == ["auto", "10.0.0.1:6379", "head.example:6379", "[::1]:6379", "ray://head:10001"]
