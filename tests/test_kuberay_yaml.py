"""kuberay.yaml against the project's versions, the job's flags and what a shared cluster must have."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import ray
import tyro
import yaml

from jobs.sequential_unlearn import Options
from tests.test_cluster_yaml import pinned

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "kuberay.yaml").read_text()


@pytest.fixture
def spec() -> dict[str, Any]:
    """What the RayJob asks for."""
    job = yaml.safe_load(TEXT)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    found: dict[str, Any] = job["spec"]
    return found


def containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Those of head and workers."""
    cluster = spec["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [container for group in groups for container in group["template"]["spec"]["containers"]]


def test_versions_are_those_of_the_constraints(spec: dict[str, Any]) -> None:
    """Ray's version here, in the image's base and in constraints.txt are one, and the installed one."""
    version = pinned((ROOT / "constraints.txt").read_text())["ray"]
    assert spec["rayClusterSpec"]["rayVersion"] == version == ray.__version__
    assert re.findall(r"rayproject/ray:(\S+)", TEXT) == [f"{version}-py311-gpu"]


def test_the_job_knows_its_flags(spec: dict[str, Any]) -> None:
    """The entrypoint is a job of this repository and takes the flags; negative control: not any flag."""
    python, script, *flags = shlex.split(spec["entrypoint"])
    assert python == "python"
    assert (ROOT / script.removeprefix("/home/ray/rayunlearn/")).is_file()
    options = tyro.cli(Options, args=flags)
    assert options.inbox_only and options.storage == "s3://BUCKET/PREFIX"
    with pytest.raises(SystemExit):
        tyro.cli(Options, args=[*flags, "--no-such-flag"])


def test_the_cluster_asks_for_a_token(spec: dict[str, Any]) -> None:
    """Token authentication is on, and the bucket's keys come from a secret and are not in the file."""
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    for container in containers(spec):
        assert container["envFrom"] == [{"secretRef": {"name": "rayunlearn-bucket"}}]
        assert not any("AWS" in variable["name"] for variable in container["env"])


def test_it_goes_on_after_a_loss_and_ends(spec: dict[str, Any]) -> None:
    """A lost head is tried again, an empty queue ends the cluster, and a GPU is there from the start."""
    assert spec["backoffLimit"] >= 1 and spec["shutdownAfterJobFinishes"]
    (workers,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert 1 <= workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    head, worker = (container["resources"]["limits"] for container in containers(spec))
    assert "nvidia.com/gpu" not in head and worker["nvidia.com/gpu"] == "1"
