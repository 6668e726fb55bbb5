"""cluster.yaml against Ray's own schema and the project's versions; no network, no cluster."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parents[1]
Config = dict[str, Any]


@pytest.fixture
def cluster() -> Config:
    """cluster.yaml as `ray up` reads it."""
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    assert isinstance(config, dict)
    return config


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    """Package name -> version, from constraints.txt."""
    return pinned((ROOT / "constraints.txt").read_text())


def pinned(text: str) -> dict[str, str]:
    """Package name (lower case) -> version; other lines than comments and pins are errors."""
    versions = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!+_-]+)", line)
            assert match, f"not of the form name==version: {line!r}"
            versions[match[1].lower()] = match[2]
    return versions


def check(config: Config) -> Config:
    """The config with defaults filled in, after all that `ray up` checks before it talks to a cloud."""
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


def test_ray_accepts_the_file(cluster: Config) -> None:
    """Ray's own preparation and validation accept the file, and the file alone fits the schema."""
    check(cluster)
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.validate(cluster, schema)


def test_workers_scale_from_zero_and_the_head_never_multiplies(cluster: Config) -> None:
    """GPU workers start at 0 and stop at 8 in all; one type has 1 GPU, one has 4; the head has none."""
    prepared = check(cluster)
    types = prepared["available_node_types"]
    head = types[prepared["head_node_type"]]
    workers = [types[name] for name in types if name != prepared["head_node_type"]]
    assert "GPU" not in head["resources"]
    assert (head["min_workers"], head["max_workers"]) == (0, 0)
    assert sorted(worker["resources"]["GPU"] for worker in workers) == [1, 4]
    assert prepared["max_workers"] == 8
    for worker in workers:
        assert worker["min_workers"] == 0
        assert 0 < worker["max_workers"] <= 8


def test_versions_are_those_of_the_constraints(cluster: Config, pins: dict[str, str]) -> None:
    """The image's tag and each pin in the commands, Ray's among them, are those of constraints.txt."""
    assert pins["ray"] == ray.__version__
    assert cluster["docker"]["image"] == f"rayproject/ray:{pins['ray']}-py311-gpu"
    commands = " ".join(
        command for key, value in cluster.items() if key.endswith("_commands") for command in value
    )
    found = re.findall(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([A-Za-z0-9.]+)", commands)
    assert ("ray", pins["ray"]) in found
    assert all(pins[name.lower()] == version for name, version in found)
    assert "--constraint /home/ray/rayunlearn/constraints.txt" in commands


def test_what_is_mounted_exists(cluster: Config) -> None:
    """Every relative path that `ray up` copies is in the repository; the token is the only one outside it."""
    outside = [local for local in cluster["file_mounts"].values() if local.startswith(("/", "~"))]
    assert outside == ["~/.ray/auth_token"]
    for local in set(cluster["file_mounts"].values()) - set(outside):
        assert (ROOT / local).exists(), local


def test_the_cluster_asks_for_a_token(cluster: Config) -> None:
    """Token authentication is set for every container, and the dashboard is not open to other machines."""
    assert "--env RAY_AUTH_MODE=token" in cluster["docker"]["run_options"]
    (head_start,) = [command for command in cluster["head_start_ray_commands"] if "ray start" in command]
    assert "--dashboard-host=127.0.0.1" in head_start


def _unknown_key(config: Config) -> None:
    config["max_wokers"] = 8


def _unknown_key_of_a_node_type(config: Config) -> None:
    config["available_node_types"]["gpu_1"]["gpus"] = 1


def _wrong_type(config: Config) -> None:
    config["max_workers"] = "eight"


def _fractional_gpu(config: Config) -> None:
    config["available_node_types"]["gpu_1"]["resources"]["GPU"] = 0.5


def _head_of_no_such_type(config: Config) -> None:
    config["head_node_type"] = "haed"


def _more_at_least_than_at_most(config: Config) -> None:
    config["available_node_types"]["gpu_1"]["min_workers"] = 9


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (_unknown_key, jsonschema.ValidationError, "max_wokers"),
        (_unknown_key_of_a_node_type, jsonschema.ValidationError, "gpus"),
        (_wrong_type, jsonschema.ValidationError, "eight"),
        (_fractional_gpu, jsonschema.ValidationError, "0.5"),
        (_head_of_no_such_type, ValueError, "head_node_type"),
        (_more_at_least_than_at_most, ValueError, "max_workers"),
    ],
)
def test_a_spoiled_file_is_refused(
    cluster: Config, spoil: Callable[[Config], None], error: type[Exception], message: str
) -> None:
    """Negative controls: Ray refuses each of these, so that accepting the file means something."""
    spoil(cluster)
    with pytest.raises(error, match=message):
        check(cluster)


@pytest.mark.parametrize("line", ["ray", "ray>=2.60", "ray @ https://example.org/ray.whl", "-e ."])
def test_a_constraint_without_a_version_is_noticed(line: str) -> None:
    """Negative control: constraints.txt holds `name==version` and nothing else, so no URL."""
    with pytest.raises(AssertionError, match="name==version"):
        pinned(f"torch==2.14.1\n{line}\n")
