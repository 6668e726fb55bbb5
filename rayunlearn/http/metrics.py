"""Figures for Prometheus: of the queue, as the storage location shows it, and of this process's answers.

No label holds an id, a name of a token or of a lineage, nor anything else that a caller has written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rayunlearn.http.looks import Looks
from rayunlearn.http.refusals import REASONS
from rayunlearn.ledger.status import CLOSED, OPEN
from rayunlearn.ledger.transparency import last_checkpoint
from rayunlearn.storage.lease import last_token

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_P = "rayunlearn_"


class _Queue(Collector):
    """Figures that are read from the storage location when they are asked for."""

    def __init__(self, looks: Looks, clock: Callable[[], datetime]) -> None:
        self._looks, self._clock = looks, clock

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering reads no storage."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All of them, at one look."""
        counts, now = self._looks.counts(), self._clock()
        depth = GaugeMetricFamily(f"{_P}requests", "Requests by status.", labels=["status"])
        for status in (*OPEN, *CLOSED):
            depth.add_metric([status], counts.by_status.get(status, 0))
        yield depth
        if counts.deadlines:
            slack = min(counts.deadlines) - now
            text = "Seconds to the nearest deadline of a request that is still to be served."
            yield GaugeMetricFamily(f"{_P}least_slack_seconds", text, slack.total_seconds())
        text = "Requests that were served after their deadlines, or are not served though these have passed."
        yield GaugeMetricFamily(f"{_P}deadlines_missed", text, counts.missed(now))
        runs = GaugeMetricFamily(f"{_P}runs", "Runs by method and outcome.", labels=["method", "outcome"])
        for (method, outcome), number in sorted(counts.runs.items()):
            runs.add_metric([method, outcome], number)
        yield runs
        text = "Claims of schedulers to the storage location, from its beginning."
        yield CounterMetricFamily(f"{_P}claims", text, last_token(self._looks.store))
        yield GaugeMetricFamily(f"{_P}ledger_entries", "Entries of the ledger.", counts.entries)
        text = "Entries that the last checkpoint of the log counts; 0 where there is none."
        yield GaugeMetricFamily(f"{_P}log_checkpoint_entries", text, last_checkpoint(self._looks.store))


class Metrics:
    """Figures of one process."""

    def __init__(self, looks: Looks, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        disable_created_metrics()  # a second series for each, which nobody asked for
        self._registry = CollectorRegistry()
        self._registry.register(_Queue(looks, clock))
        self._answers = self._made(Counter, "http_answers", "Answers by route and status.", "route", "status")
        self._seconds = self._made(Histogram, "http_seconds", "Seconds to an answer, by route.", "route")
        self._refusals = self._made(Counter, "http_refusals", "Requests refused, by reason.", "reason")
        for reason in REASONS:
            self._refusals.labels(reason)

    def _made(self, kind: type[M], name: str, text: str, *labels: str) -> M:
        return kind(f"{_P}{name}", text, labels, registry=self._registry)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count an answer; the route is a template, as `/v1/requests/{request_id}`."""
        self._answers.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def refused(self, reason: str) -> None:
        """Count a refusal."""
        self._refusals.labels(reason).inc()

    def text(self) -> bytes:
        """All figures as text."""
        return generate_latest(self._registry)


M = TypeVar("M", Counter, Histogram)
