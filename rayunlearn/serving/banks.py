"""Synthetic images of retain classes that a version hands on to the next request of its lineage.

A method that learns from DeepInversion images of its version makes them once for a lineage: what a version
retains, its successor is taught by the same images. Made anew from each version they get worse from request
to request, since each version was itself taught by images (docs/log.md, 42). Images of a class are gone with
the class: those that are handed on show retain classes alone, and none says anything of the others.
"""

from __future__ import annotations

from dataclasses import asdict

import torch

from rayunlearn.inversion.deep_inversion import SyntheticSet
from rayunlearn.lineages.beside_versions import name_beside
from rayunlearn.methods.registry import method_named
from rayunlearn.models.weights import weights_from_bytes, weights_to_bytes
from rayunlearn.recipes import Recipe
from rayunlearn.roles import Roles
from rayunlearn.storage.store import Store

BANKS = "banks"


def keep_bank(
    store: Store, recipe: Recipe, lineage: str, version: str, roles: Roles, bank: SyntheticSet | None
) -> None:
    """Hand a run's images of the retain classes on to whoever forgets from the version that it publishes."""
    if bank is not None and _is_handed_on(recipe):
        kept = bank.of(roles.retain)
        tensors = {"images": kept.images, "labels": kept.labels, "requested": torch.tensor(kept.requested)}
        store.put(_name(recipe, lineage, version), weights_to_bytes(tensors))


def handed_on(store: Store, recipe: Recipe, lineage: str, version: str, roles: Roles) -> SyntheticSet | None:
    """The images that came with a version, of the classes to retain.

    None where the method does not learn from such, where none came, or none of some class, or where they
    were made under other settings.
    """
    name = _name(recipe, lineage, version)
    if not _is_handed_on(recipe) or not store.exists(name):
        return None
    tensors = weights_from_bytes(store.get(name), name)
    bank = SyntheticSet(
        images=tensors["images"], labels=tensors["labels"], requested=int(tensors["requested"])
    ).of(roles.retain)
    return bank if set(bank.labels.tolist()) == set(roles.retain) else None


def _is_handed_on(recipe: Recipe) -> bool:
    """Whether the method learns from images of retain classes alone."""
    per_retain, per_forget = method_named(recipe.method).inverted(recipe.method_settings)
    return per_retain > 0 and per_forget == 0


def _name(recipe: Recipe, lineage: str, version: str) -> str:
    per_retain, _ = method_named(recipe.method).inverted(recipe.method_settings)
    return name_beside(BANKS, lineage, version, [asdict(recipe.inversion), per_retain])
