"""Methods by name, each with the data access and granularity that it declares."""

from __future__ import annotations

from collections.abc import Collection

from rayunlearn.errors import BadInput, nearest
from rayunlearn.methods import (
    amnesiac_relabel,
    amnesiac_rollback,
    bad_teacher,
    delete,
    few_shot,
    fine_tune,
    fisher,
    ispf,
    min_max,
    retrain,
    trivial,
    unsir,
    variational,
)
from rayunlearn.methods.gkt import run as gkt
from rayunlearn.methods.partial_restart import run as partial_restart
from rayunlearn.methods.unlearning import Method

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        partial_restart.METHOD,
        gkt.GATED_INVERSION,
        gkt.METHOD,
        min_max.METHOD,
        ispf.METHOD,
        delete.METHOD,
        unsir.METHOD,
        amnesiac_relabel.METHOD,
        amnesiac_rollback.METHOD,
        bad_teacher.METHOD,
        fisher.METHOD,
        fine_tune.METHOD,
        variational.EUBO,
        variational.RKL,
        few_shot.METHOD,
        few_shot.PRETRAINED,
        retrain.METHOD,
        trivial.MASK_LOGIT,
        trivial.DELETE_HEAD_ROW,
        trivial.GAUSSIAN_HEAD,
    )
}


def method_named(name: str) -> Method:
    """A method by its name.

    Raises:
        BadInput: no method of that name; the nearest are named.
    """
    if name not in METHODS:
        raise BadInput("method", name, nearest(name, METHODS))
    return METHODS[name]


def require_granularity(name: str, kind: str) -> None:
    """Refuse to have a method forget what it cannot: whole classes, or single samples.

    Raises:
        BadInput: what it can forget, and which methods can do what was asked.
    """
    method = method_named(name)
    if kind not in method.granularity:
        able = ", ".join(other.name for other in METHODS.values() if kind in other.granularity)
        allowed = f"{', '.join(sorted(method.granularity))}, for {name!r}; {kind} are forgotten by {able}"
        raise BadInput("kind", kind, allowed)


def require_access(name: str, granted: Collection[str]) -> None:
    """Refuse to run a method with less data than it declares.

    Raises:
        BadInput: what it needs besides.
    """
    method = method_named(name)
    missing = sorted(method.data_access - set(granted))
    if missing:
        raise BadInput("data_access", sorted(granted), f"what {name!r} needs besides: {', '.join(missing)}")
