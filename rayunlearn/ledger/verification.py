"""Custody of versions: what became of each, and whether ledger and stored weights bear it out.

Nothing here writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rayunlearn.errors import BadInput, IntegrityError
from rayunlearn.ledger.ledger import LedgerReader, verify
from rayunlearn.ledger.lineage import Version, request_events, status, versions
from rayunlearn.storage.store import NotStored, Store

SHORT = 12
"""Digits of an id where it is shown."""


@dataclass(frozen=True, kw_only=True)
class HeldVersion:
    """A version with what became of it.

    Attributes:
        version: the version.
        published_at: when it was published.
        method: that made it; None for an original.
        successor: the version that superseded it, if one did.
        purged_at: when its weights were thrown away; None where they are kept.
    """

    version: Version
    published_at: datetime
    method: str | None
    successor: Version | None
    purged_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that is not as it must be.

    >>> print(Finding(thing="parent of version 3f2a", value="none", expected="version 77aa"))
    parent of version 3f2a: none; expected: version 77aa
    """

    thing: str
    value: str
    expected: str

    def __str__(self) -> str:
        return f"{self.thing}: {self.value}; expected: {self.expected}"


def held_versions(reader: LedgerReader) -> list[HeldVersion]:
    """Every version of every lineage, lineage by lineage, oldest first."""
    rows = reader.read("versions").to_pylist()
    latest = {(row["lineage"], row["version"]): row for row in rows}
    methods = {row["run_id"]: row["method"] for row in reader.read("runs").to_pylist()}
    held = []
    for lineage in dict.fromkeys(row["lineage"] for row in rows):
        chain = versions(reader, lineage)
        for version, successor in zip(chain, [*chain[1:], None], strict=True):
            row = latest[lineage, version.version]
            held.append(
                HeldVersion(
                    version=version,
                    published_at=row["created_at"],
                    method=methods.get(version.run_id),
                    successor=successor,
                    purged_at=row["at"] if row["event"] == "purged" else None,
                )
            )
    return held


def find_version(held: Sequence[HeldVersion], name: str, lineage: str | None = None) -> HeldVersion:
    """The one version of an id, or of the beginning of one.

    Raises:
        BadInput: no version of that name, or several; some that can be meant are named.
    """
    known = [h for h in held if lineage in (None, h.version.lineage)]
    found = [h for h in known if name and h.version.version.startswith(name)]
    if len(found) != 1:
        shown = ", ".join(f"{short(h.version)} ({h.version.lineage})" for h in (found or known[::-1])[:5])
        which = "of one version; these begin so" if found else "of a version, or its beginning; the newest"
        raise BadInput("version", name, f"the id {which}: {shown or 'none, nothing was published'}")
    return found[0]


def short(version: Version) -> str:
    """The beginning of a version's id."""
    return version.version[:SHORT]


def findings(store: Store, identify: Callable[[bytes, str], str]) -> list[Finding]:
    """Everything about ledger and versions that is not as it must be.

    The chain of the ledger; of every version its weights, its parent, its requests and run, and what it has
    forgotten; requests that are called served and have no version; weights that belong to no version.

    Args:
        store: the storage location.
        identify: the version id of the weights in some bytes with a name, or `BadInput`.
    """
    found = []
    try:
        verify(store)
    except IntegrityError as error:
        found.append(Finding(thing="ledger", value=str(error), expected="every entry as it was appended"))
    reader = LedgerReader(store)
    try:
        held = held_versions(reader)
        events = request_events(reader)
        published = reader.read("runs", event="published").to_pylist()
    except IntegrityError as error:
        expected = "tables that can be read; no version could be checked"
        return [*found, Finding(thing="ledger", value=str(error), expected=expected)]
    runs = {row["run_id"]: row["version"] for row in published}
    before: dict[str, Version] = {}
    for h in held:
        version = h.version
        found += _weights(store, h, identify)
        found += _parent(version, before.get(version.lineage))
        found += _requests(version, events, runs)
        found += _forgotten(version, before.get(version.lineage), events)
        before[version.lineage] = version
    return [*found, *_without_version(events, held), *_strays(store, held)]


def _weights(store: Store, held: HeldVersion, identify: Callable[[bytes, str], str]) -> Iterator[Finding]:
    version, thing = held.version, f"weights of {_named(held.version)}, {held.version.path}"
    try:
        data = store.get(version.path)
    except NotStored:
        if held.purged_at is None:
            yield Finding(thing=thing, value="not stored", expected="stored, or recorded as purged")
        return
    except BadInput as error:
        yield Finding(thing=thing, value=str(error), expected="a name in the storage location")
        return
    if held.purged_at is not None:
        expected = f"none, they were recorded as purged at {held.purged_at:%Y-%m-%d %H:%M:%S} UTC"
        yield Finding(thing=thing, value="still stored", expected=expected)
    try:
        identity = identify(data, version.path)
    except BadInput as error:
        yield Finding(thing=thing, value=str(error), expected="weights that can be read")
        return
    if identity != version.version:
        yield Finding(thing=thing, value=f"those of {identity}", expected=version.version)


def _parent(version: Version, before: Version | None) -> Iterator[Finding]:
    expected = before.version if before else None
    if version.parent != expected:
        allowed = f"{expected}, the version before" if expected else "none, it is the first of its lineage"
        yield Finding(thing=f"parent of {_named(version)}", value=version.parent or "none", expected=allowed)


def _requests(
    version: Version, events: Mapping[str, Sequence[dict[str, Any]]], runs: Mapping[str, str]
) -> Iterator[Finding]:
    named, run = _named(version), version.run_id
    if version.parent is None:
        for thing, value in (("requests", list(version.request_ids)), ("run", run)):
            if value:
                yield Finding(thing=f"{thing} of {named}", value=str(value), expected="none of an original")
        return
    if not version.request_ids:
        yield Finding(
            thing=f"requests of {named}", value="none", expected="at least one, it is no original"
        )
    if run is None or runs.get(run) != version.version:
        said = f"{run}, which published {runs.get(run, 'nothing')}" if run else "none"
        yield Finding(thing=f"run of {named}", value=said, expected=f"a run that published {version.version}")
    for request_id in version.request_ids:
        rows = events.get(request_id, [])
        thing = f"request {request_id!r} of {named}"
        if not any(row["event"] == "received" for row in rows):
            yield Finding(thing=thing, value="never received", expected="received before it was served")
        if not any(row["event"] == "served" and row["run_id"] == run for row in rows):
            last = f"{rows[-1]['event']} by {rows[-1]['run_id'] or 'no run'}" if rows else "not in the ledger"
            yield Finding(thing=thing, value=last, expected=f"served by {run}")
        for lineage in sorted({str(row["lineage"]) for row in rows} - {version.lineage}):
            yield Finding(thing=f"lineage of {thing}", value=repr(lineage), expected=repr(version.lineage))


def _forgotten(
    version: Version, before: Version | None, events: Mapping[str, Sequence[dict[str, Any]]]
) -> Iterator[Finding]:
    """What a version has forgotten is what the one before had, and what its requests name."""
    asked = [events[request_id][0] for request_id in version.request_ids if request_id in events]
    classes = [row["target"] for row in asked if row["kind"] == "classes" or row["whole_classes"]]
    samples = [row["target"] for row in asked if row["kind"] == "samples"]
    for name, targets in (("classes_forgotten", classes), ("samples_forgotten", samples)):
        value = sorted(getattr(version, name))
        expected = sorted({*(getattr(before, name) if before else ())}.union(*targets))
        if value != expected:
            yield Finding(
                thing=f"{name} of {_named(version)}",
                value=str(value),
                expected=f"{expected}, what the version before had forgotten and what its requests name",
            )


def _without_version(
    events: Mapping[str, list[dict[str, Any]]], held: Sequence[HeldVersion]
) -> Iterator[Finding]:
    served = {request_id for h in held for request_id in h.version.request_ids}
    for request_id, rows in events.items():
        if status(rows) == "served" and request_id not in served:
            said = f"served by {rows[-1]['run_id'] or 'no run'}"
            yield Finding(thing=f"request {request_id!r}", value=said, expected="a version that serves it")


def _strays(store: Store, held: Sequence[HeldVersion]) -> Iterator[Finding]:
    known = {h.version.path for h in held}
    for name in store.list("models"):
        if name not in known:
            yield Finding(thing=name, value="stored", expected="weights of a version in the ledger")


def _named(version: Version) -> str:
    return f"version {short(version)} of lineage {version.lineage!r}"
