"""Flags of `rayunlearn check`: a model to check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from rayunlearn.cli.model_flags import ModelFlags


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """Check whether a model can be served, and by which methods; no request is run and nothing is written."""

    recipe: str = "digits"
    """Settings of the service, by name."""

    model: tyro.conf.OmitArgPrefixes[ModelFlags] = ModelFlags()

    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY.PATH=VALUE"), tyro.conf.UseAppendAction] = ()
    """Settings to change, as for `rayunlearn serve`."""

    json: bool = False
    """As JSON, for programs."""
