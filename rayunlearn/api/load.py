"""load(): the model of a version from a storage location, or of a file with weights."""

from __future__ import annotations

import json
import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import nn

from rayunlearn.errors import BadInput
from rayunlearn.models.adapted import INSIDE
from rayunlearn.models.checkpoints import load_checkpoint
from rayunlearn.models.classifiers import Classifier, ClassifierSpec, build_classifier, version_model
from rayunlearn.models.given import copied
from rayunlearn.models.weights import load_into, load_weights_file, version_id

EXPORTED = "classifier"
"""Of an exported version's file: the field of its metadata that says how the model is built."""


def load(
    source: str | os.PathLike[str],
    *,
    version: str | None = None,
    lineage: str | None = None,
    network: nn.Module | None = None,
) -> nn.Module:
    """A model in eval mode, on CPU.

    Args:
        source: a storage location (a folder or `s3://bucket/prefix`), a file of an exported version, or a
            file with weights for a network.
        version: of a storage location, the id of a version or its beginning; None is the newest.
        lineage: of a storage location, where it has several; None is the only one.
        network: that weights in a file are for. A copy of it gets them; the network is left as it was.

    Returns:
        A copy of the network where one is given; else a classifier of this package, which knows its input.

    Raises:
        BadInput: naming the argument, its value and what is allowed.
        IntegrityError: stored weights are not those of the version.
    """
    if not isinstance(source, str | os.PathLike):
        raise BadInput("source", source, "a folder, an address s3://bucket/prefix, or a file with weights")
    for name, value in (("version", version), ("lineage", lineage)):
        if value is not None and not isinstance(value, str):
            raise BadInput(name, value, "a text, or None")
    if network is not None and not isinstance(network, nn.Module):
        raise BadInput("network", network, "the torch.nn.Module that the weights are for, or None")
    place = os.fspath(source)
    if place.startswith("s3://") or os.path.isdir(place) and network is None:
        if network is not None:
            raise BadInput("network", type(network).__name__, "None: a version says how its model is built")
        return _version(place, version, lineage)
    for name, value in (("version", version), ("lineage", lineage)):
        if value is not None:
            raise BadInput(name, value, "None for a file; it names a version of a storage location")
    if not os.path.exists(place):
        raise BadInput("source", place, "a storage location or a file that is there")
    if network is not None:
        model = copied(network)
        load_checkpoint(place, model)
        return model.eval()
    return _exported(Path(place))


def _version(place: str, name: str | None, lineage: str | None) -> Classifier:
    from rayunlearn.ledger.ledger import LedgerReader
    from rayunlearn.ledger.verification import find_version, held_versions
    from rayunlearn.lineages.published import load_version
    from rayunlearn.storage.store import Store

    store = Store.open(place, create=False)
    held = held_versions(LedgerReader(store))
    lineages = sorted({each.version.lineage for each in held})
    if lineage is not None and lineage not in lineages:
        raise BadInput("lineage", lineage, f"one of {place}: {', '.join(lineages) or 'none yet'}")
    if name is not None:
        found = find_version(held, name, lineage)
    else:
        if not lineages or lineage is None and len(lineages) > 1:
            raise BadInput("lineage", lineage, f"one of {place}: {', '.join(lineages) or 'none yet'}")
        found = [each for each in held if lineage in (None, each.version.lineage)][-1]
    if found.purged_at is not None:
        raise BadInput("version", found.version.version[:12], "one that is kept; this one was purged")
    spec = ClassifierSpec.from_dict(found.version.model)
    return version_model(spec, load_version(store, found.version))


def _exported(path: Path) -> Classifier:
    """The model of a file that says how it is built."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError):
        metadata = {}
    if EXPORTED not in metadata:
        allowed = f"the torch.nn.Module that the weights are for: {path.name} does not say what it is"
        raise BadInput("network", None, allowed)
    try:
        spec = ClassifierSpec.from_dict(json.loads(metadata[EXPORTED]))
    except ValueError as error:
        allowed = f"a classifier's spec ({error})"
        raise BadInput(f"{EXPORTED} in {path.name}", metadata[EXPORTED], allowed) from error
    weights = load_weights_file(path)
    if spec.source is not None:  # as the network itself names them
        weights = {f"{INSIDE}{name}": value for name, value in weights.items()}
    if (said := metadata.get("version")) is not None and version_id(weights) != said:
        raise BadInput("source", str(path), f"a file with the weights of version {said[:12]}, as it says")
    model = build_classifier(spec, 0)
    load_into(model, weights, str(path))
    return model.eval()
