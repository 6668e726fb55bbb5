"""Methods by name, each with the data access and granularity that it declares."""

from __future__ import annotations

from collections.abc import Collection

from rayunlearn import declared
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
    declared.require_method(METHODS, name)
    return METHODS[name]


def require_granularity(name: str, kind: str) -> None:
    """Refuse to have a method forget what it cannot; raises as `declared.require_granularity`."""
    declared.require_granularity(METHODS, name, kind)


def require_access(name: str, granted: Collection[str]) -> None:
    """Refuse to run a method with less data than it declares; raises as `declared.require_access`."""
    declared.require_access(METHODS, name, granted)
