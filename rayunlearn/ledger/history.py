"""The ledger as the plan reads it: where lineages stand, what runs took, left and failed at."""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import repeat
from typing import Any

from rayunlearn.ledger.compaction import ENTRY
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.scheduling.costs import PastRun
from rayunlearn.scheduling.plan import Refusal
from rayunlearn.scheduling.queue import Lineage, RunUnderWay

_Row = dict[str, Any]

NO_LIKENESS = ("method", "name", "publish_refused", "audit")
"""Settings that make no run take longer or leave less."""

REMEMBERED = 1_000
"""So many runs that have ended, the last ones, are what costs are estimated from."""

_OF_VERSION = ("lineage", "version", "run_id", "model", "classes_forgotten")
_OF_END = (
    "run_id", "lineage", "request_ids", "method", "attempt", "event", "reason", "config", "config_hash",
)  # fmt: skip
_KEPT, _BEFORE = "retain_accuracy", "parent_retain_accuracy"


@dataclass(frozen=True, kw_only=True)
class Known:
    """Of a storage location, as far as a plan goes by it.

    Attributes:
        lineages: by name.
        past: the last runs that have ended.
        refusals: of the requests that wait.
    """

    lineages: Mapping[str, Lineage]
    past: tuple[PastRun, ...]
    refusals: tuple[Refusal, ...]


@dataclass
class _Open:
    """A run that has not ended, as far as it has come."""

    method: str
    seconds: float = 0.0
    measures: dict[str, float] = field(default_factory=dict)

    @property
    def kept(self) -> float | None:
        """Its result's accuracy on the gate's retain images as a share of its parent's."""
        if _KEPT not in self.measures:
            return None
        return min(1.0, self.measures[_KEPT] / (self.measures.get(_BEFORE) or 1.0))


@dataclass
class _Chain:
    """Where a lineage stands."""

    version: str
    num_classes: int
    forgotten: frozenset[int]
    kept: float = 1.0


@dataclass(frozen=True, kw_only=True)
class _Refused:
    """A run that has failed, while a request of it may still be served."""

    request_ids: tuple[str, ...]
    method: str
    attempt: int
    reason: str
    config_hash: str


@lru_cache(maxsize=64)
def likeness(config: str) -> str:
    """What makes runs alike, whatever their method: a hash of the settings that a run can depend on.

    >>> likeness('{"method": "gkt", "data": 1}') == likeness('{"method": "retrain", "data": 1}')
    True
    """
    told = {key: value for key, value in json.loads(config).items() if key not in NO_LIKENESS}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


@lru_cache(maxsize=64)
def _classes(model: str) -> int:
    return int(json.loads(model)["num_classes"])


class History:
    """What a plan goes by; asked again, it reads only what has been appended since.

    It remembers lineages, requests that are open, what these were refused for, and the last runs: nothing
    that grows with the requests that were served.

    Args:
        reader: of the ledger; measurements on real data are not among what it may read.
    """

    def __init__(self, reader: LedgerReader) -> None:
        self._reader = reader
        self._read_to = 0
        self._open: dict[str, _Open] = {}
        self._chains: dict[str, _Chain] = {}
        self._targets: dict[str, tuple[int, ...]] = {}
        self._past: deque[PastRun] = deque(maxlen=REMEMBERED)
        self._refused: list[_Refused] = []

    def known(
        self,
        config: str,
        *,
        waiting: Collection[str],
        under_way: Mapping[str, RunUnderWay],
        config_hash: Callable[[str], str],
    ) -> Known:
        """What is known now.

        Args:
            config: the service's recipe as JSON.
            waiting: ids of the requests that wait.
            under_way: lineage -> its run that has not ended.
            config_hash: method -> hash of the settings that it would have now: what was refused under others
                may be tried again.
        """
        self._read()
        recipe = likeness(config)
        lineages = {
            name: Lineage(
                name=name, version=chain.version, recipe=recipe, num_classes=chain.num_classes,
                forgotten=chain.forgotten, kept=chain.kept, under_way=under_way.get(name),
            )
            for name, chain in sorted(self._chains.items())
        }  # fmt: skip
        refusals = tuple(
            Refusal(request_ids=run.request_ids, method=run.method, attempt=run.attempt, reason=run.reason)
            for run in self._refused
            if set(run.request_ids) & set(waiting) and run.config_hash == config_hash(run.method)
        )
        return Known(lineages=lineages, past=tuple(self._past), refusals=refusals)

    def _read(self) -> None:
        """Take in what was appended since, in the order in which it was."""
        end = self._reader.last_entry
        streams = (
            self._rows(end, "requests", ["request_id", "kind", "target", "event"]),
            self._rows(end, "runs", ["run_id", "method", "event", "seconds"], event={"started", "phase"}),
            self._rows(end, "evaluations", ["run_id", "measure", "value"], measure={_KEPT, _BEFORE}),
            self._rows(end, "versions", _OF_VERSION, event="published"),
            self._rows(end, "runs", _OF_END, event={"published", "failed"}),
        )
        take = (self._request, self._begun, self._measured, self._published, self._ended)
        told = (zip(rows, repeat(tell)) for rows, tell in zip(streams, take, strict=True))
        for row, tell in heapq.merge(*told, key=lambda item: item[0][ENTRY]):
            tell(row)
        self._read_to = end

    def _rows(
        self, end: int, table: str, columns: Sequence[str] | None, **equals: Any
    ) -> Iterator[_Row]:
        for row in self._reader.rows(table, columns=columns, after=self._read_to, **equals):
            if row[ENTRY] > end:
                return
            yield row

    def _request(self, row: _Row) -> None:
        request_id = row["request_id"]
        if row["event"] in ("received", "planned"):
            self._targets[request_id] = tuple(row["target"]) if row["kind"] == "classes" else ()
        elif row["event"] in ("served", "cancelled"):
            self._targets.pop(request_id, None)
            self._refused = [run for run in self._refused if request_id not in run.request_ids]
        elif row["event"] == "failed":
            self._targets.pop(request_id, None)

    def _begun(self, row: _Row) -> None:
        run = self._open.setdefault(row["run_id"], _Open(row["method"]))
        run.seconds += row["seconds"] or 0.0

    def _measured(self, row: _Row) -> None:
        if row["run_id"] in self._open:
            self._open[row["run_id"]].measures[row["measure"]] = row["value"]

    def _published(self, row: _Row) -> None:
        before, run = self._chains.get(row["lineage"]), self._open.get(row["run_id"])
        share = 1.0 if before is None or (run is not None and run.method == "retrain") else before.kept
        own = None if run is None else run.kept
        self._chains[row["lineage"]] = _Chain(
            version=row["version"],
            num_classes=_classes(row["model"]),
            forgotten=frozenset(row["classes_forgotten"]),
            kept=share * (1.0 if own is None else own),
        )

    def _ended(self, row: _Row) -> None:
        run = self._open.pop(row["run_id"], None) or _Open(row["method"])
        published = row["event"] == "published"
        chain = self._chains.get(row["lineage"])
        gone = chain.forgotten if chain else frozenset()
        if not published:
            gone = gone.union(*(self._targets.get(i, ()) for i in row["request_ids"]))
            refused = _Refused(
                request_ids=tuple(row["request_ids"]), method=row["method"], attempt=row["attempt"],
                reason=row["reason"], config_hash=row["config_hash"],
            )  # fmt: skip
            self._refused.append(refused)
        past = PastRun(
            method=row["method"], recipe=likeness(row["config"]), forgotten=len(gone), seconds=run.seconds,
            passed=published, kept=run.kept,
        )  # fmt: skip
        self._past.append(past)
