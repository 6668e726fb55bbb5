"""What every test runs under: one thread, a quiet local Ray without tokens, patient hypothesis."""

from __future__ import annotations

import os

# Before any test imports Ray. Without RAY_AUTH_MODE a local `ray.init()` writes ~/.ray/auth_token and turns
# token authentication on for later clusters; `ray.train.report` waits for the health check (2 s by default).
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"

import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

# Bitwise claims hold at equal threads, and Ray gives an actor of one CPU one thread.
torch.set_num_threads(1)

# No deadline: CI machines are shared. In CI the examples are the same each time; at a desk they are new.
IN_CI = bool(os.environ.get("CI"))
settings.register_profile("rayunlearn", deadline=None, derandomize=IN_CI, print_blob=True)
settings.load_profile("rayunlearn")
