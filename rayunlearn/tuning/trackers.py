"""Experiment trackers that a sweep's trials are told to, by Tune's own callbacks, where they are installed.

Each is named after the sweep. Where it writes to is set as its own documentation says: `MLFLOW_TRACKING_URI`,
`WANDB_API_KEY` or `WANDB_MODE=offline`, `WANDB_PROJECT_NAME`; TensorBoard's files lie with the sweep.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence

from ray import tune

from rayunlearn.errors import BadInput, nearest

Tracker = Callable[[str], tune.Callback]
"""Sweep's name -> the callback that tells of it."""


def trackers(names: Sequence[str]) -> list[Tracker]:
    """What makes the callbacks of these trackers.

    Raises:
        BadInput: an unknown tracker, one that is not installed, or one that has no key.
    """
    made = []
    for name in names:
        if name not in TRACKERS:
            raise BadInput("--log", name, nearest(name, TRACKERS))
        package, make = TRACKERS[name]
        if importlib.util.find_spec(package) is None:
            raise BadInput("--log", name, f"a tracker whose package is installed; this one's is {package}")
        made.append(make)
    if "wandb" in names and not _may_log_to_wandb():
        allowed = "wandb with WANDB_API_KEY in the environment, or with WANDB_MODE=offline"
        raise BadInput("--log", "wandb", allowed)
    return made


def _may_log_to_wandb() -> bool:
    offline = os.environ.get("WANDB_MODE") in ("offline", "disabled")
    return offline or any(os.environ.get(key) for key in ("WANDB_API_KEY", "WANDB_SETUP_API_KEY_HOOK"))


def _tensorboard(sweep: str) -> tune.Callback:
    from ray.tune.logger import TBXLoggerCallback

    return TBXLoggerCallback()


def _mlflow(sweep: str) -> tune.Callback:
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    return MLflowLoggerCallback(experiment_name=sweep)


def _wandb(sweep: str) -> tune.Callback:
    from ray.air.integrations.wandb import WandbLoggerCallback

    project = os.environ.get("WANDB_PROJECT_NAME", "rayunlearn")
    return WandbLoggerCallback(project=project, group=sweep)


TRACKERS: dict[str, tuple[str, Tracker]] = {
    "tensorboard": ("tensorboardX", _tensorboard),
    "mlflow": ("mlflow", _mlflow),
    "wandb": ("wandb", _wandb),
}
"""Name -> its package, and what makes Tune's callback for it."""
