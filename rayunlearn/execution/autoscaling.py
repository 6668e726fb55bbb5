"""What a cluster can become: what its autoscaler may add to what is there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import yaml
from ray._private.state import state

from rayunlearn.errors import BadInput

CONFIG_VARIABLE = "RAYUNLEARN_AUTOSCALING_CONFIG"
"""Names the autoscaler's configuration, where it is not the file that `ray up` leaves on the head node."""
_LEFT_BY_RAY_UP = Path("~/ray_bootstrap_config.yaml")


def ceiling() -> dict[str, float]:
    """What the cluster has, or can have where its autoscaler's configuration is known.

    By this a run asks for its place: one that asked for what is there would never make a cluster grow.
    """
    has, can = ray.cluster_resources(), _can_have()
    return {name: max(has.get(name, 0.0), float(can.get(name, 0.0))) for name in {*has, *can}}


def _can_have() -> Mapping[str, float]:
    """As the autoscaler's configuration says, or as Ray was told; empty where nobody knows."""
    configuration = _configuration()
    try:
        most = most_of(configuration)
    except (AttributeError, TypeError, ValueError) as error:
        allowed = f"an autoscaler's configuration, with a number for each resource ({error})"
        raise BadInput(CONFIG_VARIABLE, os.environ.get(CONFIG_VARIABLE), allowed) from error
    return {**most, **(state.get_max_resources_from_cluster_config() or {})}


def most_of(configuration: Mapping[str, Any]) -> dict[str, float]:
    """The most of each resource that a cluster of this configuration can have, its head included.

    >>> types = {"head": {"resources": {"CPU": 8}}, "gpu": {"resources": {"GPU": 4}, "max_workers": 9}}
    >>> most_of({"max_workers": 2, "head_node_type": "head", "available_node_types": types})
    {'CPU': 8.0, 'GPU': 8.0}
    """
    types: Mapping[str, Any] = configuration.get("available_node_types") or {}
    each: dict[str, Mapping[str, float]] = {name: kind.get("resources") or {} for name, kind in types.items()}
    head = configuration.get("head_node_type")
    together = int(configuration.get("max_workers", 0))
    found: dict[str, float] = {}
    for resource in sorted({name for has in each.values() for name in has}):
        left, most = together, 0.0
        amounts = {name: float(has.get(resource, 0)) for name, has in each.items()}
        for name, amount in sorted(amounts.items(), key=lambda item: -item[1]):
            if name == head:
                most += amount
                continue
            count = min(left, int(types[name].get("max_workers", together)))
            left, most = left - count, most + amount * count
        found[resource] = most
    return found


def _configuration() -> Mapping[str, Any]:
    named = os.environ.get(CONFIG_VARIABLE)
    path = Path(named) if named else _LEFT_BY_RAY_UP.expanduser()
    try:
        found = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        if named:
            raise BadInput(CONFIG_VARIABLE, named, "the path of an autoscaler's configuration") from None
        return {}
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise BadInput(CONFIG_VARIABLE, str(path), f"an autoscaler's configuration ({said})") from error
    if not isinstance(found, dict):
        raise BadInput(CONFIG_VARIABLE, str(path), "an autoscaler's configuration, a YAML mapping")
    return found
