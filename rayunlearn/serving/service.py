"""One job: read requests, serve them, audit what was published, report.

The driver itself never opens a dataset: originals and gold models are trained, and audits made, in
processes of their own; unlearning runs in sealed ones.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import FrameType

from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from rayunlearn.auditing.auditor import Auditor
from rayunlearn.errors import BadInput, ExitCode, Interrupted
from rayunlearn.execution.autoscaling import ceiling
from rayunlearn.execution.cluster import bundles, open_executor
from rayunlearn.execution.placement import Placement
from rayunlearn.execution.remote import fetch
from rayunlearn.execution.train_executor import TrainExecutor
from rayunlearn.fields import check_value
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.lineage import OpenRequests, Version, versions
from rayunlearn.lineages.context import Context
from rayunlearn.lineages.fixed_settings import require_fixed
from rayunlearn.lineages.requested import data_of, require_same_seed
from rayunlearn.methods.registry import METHODS, method_named
from rayunlearn.methods.unlearning import Method
from rayunlearn.models.classifiers import ClassifierSpec
from rayunlearn.models.weights import weights_from_bytes, weights_to_bytes
from rayunlearn.roles import Roles
from rayunlearn.scheduling.class_names import numbered_classes
from rayunlearn.scheduling.plan import PlanSettings
from rayunlearn.scheduling.requests import EXAMPLES_PREFIX, Rejected, Request
from rayunlearn.seeds import derive_seed
from rayunlearn.serving.dispatch import Dispatcher
from rayunlearn.serving.examples import (
    keep_examples,
    read_by_task,
    reference,
    referred_to,
    require_fitting,
)
from rayunlearn.serving.generators import given_generator, pretrained_name, train_on_data_task
from rayunlearn.serving.grants import check_samples_by_task
from rayunlearn.serving.intake import Intake, Row, drain, refused, take_in
from rayunlearn.serving.originals import Originals
from rayunlearn.serving.retention import purge
from rayunlearn.serving.scheduler import Outcome, Scheduler
from rayunlearn.storage.inbox import Inbox
from rayunlearn.unlearning.executor import Executor
from rayunlearn.unlearning.progress import Progress, Quiet

RETRAIN = "retrain"
"""The method that comes last, where the data it takes are allowed."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where runs are put: no part of a recipe, and without influence on any result.

    Attributes:
        placement: of the roles, where the method has some; a method of one part is colocated.
        cpus_per_role: None shares out what the cluster has.
        gpus_per_role: the same for GPUs.
        threads: torch threads in each role; results are compared at equal threads.
        workers: processes that share out what a colocated run can do side by side, synthesis and sampling.
        together: classes that requests of a lineage which wait together may forget in one run; 1 serves them
            one after another.
        node_wait_s: so long a run waits for its place; given, more may be asked for than the cluster has,
            since somebody is about to add nodes. None is ten minutes, for what an autoscaler can bring.
    """

    placement: Placement = Placement.SPLIT
    cpus_per_role: float | None = None
    gpus_per_role: float | None = None
    threads: int = 1
    workers: int = 1
    together: int = 1
    node_wait_s: float | None = None

    def __post_init__(self) -> None:
        """Refuse a place without a process, and a run of no class."""
        check_value("--workers", self.workers, PositiveInt)
        check_value("--together", self.together, PositiveInt)
        check_value("--node-wait", self.node_wait_s, PositiveFloat | None)

    @property
    def side_by_side(self) -> bool:
        """Whether runs leave room for others; one that takes a share of all there is fits once."""
        return self.cpus_per_role is not None or self.gpus_per_role is not None


class Service:
    """A job over one storage location.

    Args:
        context: what the job's parts share.
        place: where runs are put.
        checkpoint: file with the original's weights; None trains an original where a lineage has none.
        checkpoint_key: where in that file they are, if it holds several state dicts.
        generator: file with the weights of a conditional generator that was trained elsewhere, for a method
            that declares one; None trains it on the recipe's data.
    """

    def __init__(
        self,
        context: Context,
        place: Place,
        *,
        checkpoint: str | Path | None = None,
        checkpoint_key: str | None = None,
        generator: str | Path | None = None,
    ) -> None:
        recipe = context.recipe
        self.method = method_named(recipe.method)
        if checkpoint is not None and "training_log" in self.method.data_access:
            allowed = f"none: {recipe.method!r} needs the log of the original's training, so it trains it"
            raise BadInput("--checkpoint", str(checkpoint), allowed)
        if generator is not None and "pretrained_generator" not in self.method.data_access:
            able = ", ".join(m.name for m in METHODS.values() if "pretrained_generator" in m.data_access)
            raise BadInput("--generator", str(generator), f"none for {recipe.method!r}; {able} take one")
        self.context = context
        self.place = place
        # what never fits is told before anything is done
        self._bundles(ceiling(), bounded=place.node_wait_s is None)
        self.reader = LedgerReader(context.store)
        self.inbox, self.open_requests = Inbox(context.store), OpenRequests(self.reader)
        require_same_seed(self.reader, context.seed, context.store.where)
        self.original = Originals(
            context, self.reader, threads=place.threads, checkpoint=checkpoint,
            checkpoint_key=checkpoint_key, generator=generator is not None,
        )  # fmt: skip
        self.spec, self.split_seed = self.original.spec, self.original.split_seed
        self.generator = (
            None if generator is None else given_generator(generator, self.spec, recipe.few_shot)
        )
        self._schedulers: dict[str, Scheduler] = {}
        self._fitting: set[str] = set()
        self.held: dict[str, Exception] = {}
        self.scheduler = self.scheduler_for(recipe.method)

    def scheduler_for(self, method: str) -> Scheduler:
        """What serves by a method, under the service's other settings."""
        if method not in self._schedulers:
            declared, context = method_named(method), self.context
            if self.place.side_by_side:  # several runs at once have no bar between them
                context = replace(context, progress=OnlySaid(context.progress))
            self._schedulers[method] = Scheduler(
                replace(context, recipe=replace(context.recipe, method=method)),
                open_executor=lambda: self._open_executor(declared),
                placement=self._placement(declared).value,
                pretrained=self._pretrained,
            )
        return self._schedulers[method]

    def _placement(self, method: Method) -> Placement:
        """A run of one part has nothing to split."""
        return self.place.placement if method.roles else Placement.COLOCATED

    def slots(self) -> int:
        """How many runs fit on the cluster as it is now, or can become; at least one may wait for nodes."""
        if not self.place.side_by_side:
            return 1
        cluster = ceiling()
        wanted = self._bundles(cluster, bounded=False)
        fit = [
            cluster.get(name, 0.0) / sum(bundle.get(name, 0.0) for bundle in wanted)
            for name in {name for bundle in wanted for name in bundle}
        ]
        return max(1, int(min(fit) + 1e-9))

    def _bundles(self, cluster: Mapping[str, float], *, bounded: bool) -> list[dict[str, float]]:
        place = self.place
        return bundles(
            self._placement(self.method), cluster, cpus_per_role=place.cpus_per_role,
            gpus_per_role=place.gpus_per_role, workers=place.workers, bounded=bounded,
        )  # fmt: skip

    def _open_executor(self, method: Method) -> Executor:
        place, recipe, placement = self.place, self.context.recipe, self._placement(method)
        executor = open_executor(
            placement,
            cpus_per_role=place.cpus_per_role,
            gpus_per_role=place.gpus_per_role,
            threads=place.threads,
            workers=place.workers,
            node_wait_s=place.node_wait_s,
            imports=self.spec.imports,
        )
        workers = recipe.few_shot.workers if method.section == recipe.few_shot.section else 0
        if not workers:
            return executor
        return TrainExecutor(
            executor, self.context.store.scratch("train"), workers=workers, threads=place.threads
        )

    def _pretrained(self, parent: Version) -> dict[str, Tensor]:
        """The generator given, or one trained on what the lineage has not forgotten."""
        if self.generator is not None:
            return self.generator
        store, recipe = self.context.store, self.context.recipe
        name = pretrained_name(recipe, parent.lineage, parent.version)
        if not store.exists(name):
            self.context.progress.phase("generator", "train on the data")
            seed = derive_seed(self.context.seed, "pretrained")
            gone = Roles(
                retain=(), target=(), forgotten=parent.classes_forgotten,
                forgotten_samples=parent.samples_forgotten,
            )  # fmt: skip
            task = train_on_data_task.remote(
                data_of(recipe.data, parent), self.spec, recipe.few_shot, self.split_seed, seed, gone,
                self.place.threads,
            )  # fmt: skip
            trained: dict[str, Tensor] = fetch(task)
            store.put(name, weights_to_bytes(trained))
            self.context.progress.done()
        return weights_from_bytes(store.get(name), name)

    def require_fitting(self, lineage: str) -> None:
        """Refuse a lineage that has begun and whose original the settings contradict.

        Raises:
            BadInput: naming the setting, its value, and what the lineage has.
        """
        if lineage in self._fitting:
            return
        chain = versions(self.reader, lineage)
        if chain:
            require_fixed(self.reader, chain[0], self.context.recipe, self.spec)
            self._fitting.add(lineage)

    def spec_of(self, lineage: str) -> ClassifierSpec:
        """Of the lineage's original, be it there or still to come."""
        chain = versions(self.reader, lineage)
        return ClassifierSpec.from_dict(chain[0].model) if chain else self.spec

    def take_in(self, entries: Sequence[Request | Rejected], *, record: bool = True) -> Intake:
        """Sort a file's requests, each checked whole, before anything is trained.

        Raises:
            BadInput: a checkpoint was given that is not the original of a lineage that there is already.
        """
        self.original.require_given({e.lineage for e in entries if isinstance(e, Request)})
        intake, rows = self._checked([self.numbered(entry) for entry in entries], record=record)
        if record:
            self.context.ledger.append("requests", rows)
        return intake

    def take_in_inbox(
        self,
        first: Sequence[Request | Rejected] = (),
        *,
        record: bool = True,
        under_way: Collection[str] = (),
    ) -> Intake:
        """Sort all that waits: what the ledger knows to wait, the lines of a file, and the inbox.

        Args:
            first: lines of a file.
            record: False is a dry run.
            under_way: ids of requests whose run goes on; they are cancelled only if it is refused.

        Raises:
            BadInput: a checkpoint was given that is not the original of a lineage that the file names.
        """
        self.original.require_given({e.lineage for e in first if isinstance(e, Request)})
        return drain(
            self.inbox,
            self.reader,
            self.context.ledger if record else None,
            lambda entries, received: self._checked(entries, received, record=record),
            number=self.numbered,
            waiting=self.open_requests,
            first=first,
            under_way=under_way,
            now=self.context.clock(),
        )

    def numbered(self, entry: Request | Rejected) -> Request | Rejected:
        """A request with its lineage's numbers for the classes that it names, or why there are none."""
        if isinstance(entry, Rejected) or not entry.names:
            return entry
        spec = self.spec_of(entry.lineage)
        names = spec.class_names
        if names is None and spec.num_classes == self.spec.num_classes:  # begun before names were recorded
            names = self.spec.class_names
        try:
            return numbered_classes(entry, names)
        except BadInput as error:
            return refused(entry, error)

    def _checked(
        self,
        entries: Sequence[Request | Rejected],
        received: Mapping[str, datetime] | None = None,
        *,
        record: bool,
    ) -> tuple[Intake, list[Row]]:
        return take_in(
            self.reader,
            entries,
            method=self.context.recipe.method,
            num_classes=self.spec.num_classes,
            check_samples=self._check_samples,
            read_examples=lambda request: self._examples(request, record=record),
            config_hash=self.scheduler.config_hash,
            now=self.context.clock(),
            received=received,
            check_lineage=self.require_fitting,
            check_data=self.original.require_data_of,
        )

    def _check_samples(self, roles: Roles, head: Version | None) -> None:
        data = self.context.recipe.data
        check_samples_by_task(data if head is None else data_of(data, head), self.split_seed, roles)

    def with_examples(self, request: Request) -> Request:
        """A request with its examples taken in, so that they can be found by reference.

        Raises:
            BadInput: as the taking in of requests does.
        """
        if request.kind != "examples":
            return request
        return replace(request, examples=self._examples(request, record=True))

    def _examples(self, request: Request, *, record: bool) -> str:
        """The reference of a request's examples, which are kept unless this is a dry run."""
        store, said, spec = self.context.store, str(request.examples), self.spec_of(request.lineage)
        if not said.startswith(EXAMPLES_PREFIX):
            examples = read_by_task(said, spec, request.target, self.context.progress.say)
        else:
            examples = referred_to(store, self.inbox, request)
            require_fitting(examples, spec, request.target)
        return keep_examples(store, examples) if record else reference(examples)

    def serve(
        self, intake: Intake, came: Callable[[Intake], None] = lambda later: None
    ) -> dict[str, Outcome]:
        """Serve what is pending, and what comes meanwhile, by the plan; request id -> what became of it.

        Each run starts from the version that the one before published. A request that is cancelled before
        its turn is left out. `held` then has the lineages that could not be gone on with, each with why.

        Args:
            intake: what is pending.
            came: is told of every later intake; one has all that waits, not only what is new.
        """
        method = self.context.recipe.method
        cancelled: set[str] = set()

        def news() -> tuple[Request, ...]:
            under_way = {i for _, run, _ in dispatcher.running.values() for i in run.request_ids}
            found = self.take_in_inbox(under_way=under_way)
            cancelled.update(request.request_id for request in found.cancelled)
            came(found)
            return found.pending

        dispatcher = Dispatcher(
            self.context,
            scheduler_for=self.scheduler_for,
            settings=PlanSettings(
                order=() if method == RETRAIN else (method,), retrain=RETRAIN, max_classes=self.place.together
            ),
            slots=self.slots if self.place.side_by_side else None,
            begin_lineage=self.begin_lineage,
            news=news,
            cancelled=lambda: cancelled,
        )
        outcomes = dispatcher.drain(intake.pending)
        self.held = dispatcher.held
        return outcomes

    def begin_lineage(self, lineage: str) -> None:
        """Publish the original: the given checkpoint, or one trained on all classes."""
        weights = self.original.weights_of(lineage)
        self.scheduler.publish(
            lineage=lineage,
            weights=weights,
            spec=self.spec,
            parent=None,
            request_ids=[],
            classes_forgotten=(),
            run=None,
            data_hash=self.original.data_hash,
        )

    @property
    def audits(self) -> bool:
        """Whether what is published is audited: the recipe says so, and there are data to measure on."""
        return self.context.recipe.audit.enabled and self.original.no_data is None

    def audit(self) -> None:
        """Measure what was published on real data, in processes of their own."""
        Auditor(self.context, threads=self.place.threads, spec=self.spec).audit()

    def purge(self) -> list[str]:
        """Throw away what still knows forgotten classes; returns the versions purged now."""
        self.context.check_lease()  # what another scheduler works with is not ours to throw away
        return purge(self.context.store, self.context.ledger, self.context.clock)


class OnlySaid(Quiet):
    """Progress of runs side by side: what is said is passed on, bars are not."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def say(self, text: str) -> None:
        """Pass it on."""
        self.progress.say(text)


def exit_code(intake: Intake, outcomes: Mapping[str, Outcome]) -> ExitCode:
    """The exit code of a job that ran to its end.

    >>> exit_code(Intake(pending=(), done=(), rejected=()), {})
    <ExitCode.OK: 0>
    """
    before = len(intake.failed)
    served = sum(outcome.version is not None for outcome in outcomes.values()) + len(intake.done) - before
    failed = sum(outcome.version is None for outcome in outcomes.values()) + before
    if not intake.rejected and not failed:
        return ExitCode.OK
    if served:
        return ExitCode.PARTIAL
    return ExitCode.NOTHING_ADMISSIBLE if failed else ExitCode.BAD_INPUT


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and SIGINT end the job between two bytecodes; the last checkpoint is on disk already.

    Enter it after `ray.init`, which sets a SIGTERM handler of its own.
    """

    names: list[str] = []

    def stop(number: int, frame: FrameType | None) -> None:
        names.append(signal.Signals(number).name)
        # the one exception that a waiting ray.get() lets through from a handler
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except KeyboardInterrupt as error:
        name = names[0] if names else "SIGINT"
        said = f"stopped by {name}; the same command goes on from the last checkpoint"
        raise Interrupted(said) from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
