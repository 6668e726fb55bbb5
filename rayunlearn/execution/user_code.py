"""Where workers find the module of a factory that the operator names: as this process does."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from rayunlearn.errors import BadInput
from rayunlearn.models.sources import LIBRARIES, is_factory


def found_by_workers(factory: str, address: str | None, flag: str = "--model") -> dict[str, Any]:
    """Have workers find a factory's module; the current folder counts as well.

    Args:
        factory: a model's name; one that is built in, or of a library, needs nothing. Or a function's name.
        address: of the cluster, as `connect` takes it. Workers of one that this process starts inherit its
            environment.
        flag: what names it, for the message.

    Returns:
        Options for `connect` to a cluster that others started.

    Raises:
        BadInput: there is no such module.
    """
    package, _, _ = factory.partition(":")
    if not is_factory(factory) or package in LIBRARIES:
        return {}
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    top = package.partition(".")[0]
    spec = importlib.util.find_spec(top)
    places = [spec.origin] if spec is not None and spec.origin else []
    if spec is not None and spec.submodule_search_locations:
        places = list(spec.submodule_search_locations)
    if not places:
        allowed = f"a module that can be imported; {top!r} is none, here or on PYTHONPATH"
        raise BadInput(flag, factory, allowed)
    place = Path(places[0]).absolute()
    if address not in (None, "local") or address is None and os.environ.get("RAY_ADDRESS"):
        return {"runtime_env": {"py_modules": [str(place)]}}
    others = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(place.parent) not in others and "site-packages" not in place.parts:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(place.parent), *filter(None, others)])
    return {}
