"""A sweep: Ray Tune searches the settings of a method for one version, judged by synthetic sets alone.

The synthetic sets are made once and shared by all trials (`rayunlearn.tuning.trial`). What every checkpoint
of every trial gave is in the ledger as it comes; Tune keeps its own state beside, so that a driver that was
killed goes on with the same trials. A second set, which no decision of the search sees, is looked at when the
search is over: a search can overfit its own set, and the difference says by how much.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import signal
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import ray
from ray import tune
from ray.tune.error import TuneError
from torch import Tensor

from rayunlearn.errors import BadInput, RayUnlearnError
from rayunlearn.evaluation.judged import Evidence
from rayunlearn.execution.autoscaling import ceiling
from rayunlearn.execution.cluster import bundles, open_executor
from rayunlearn.execution.executor import ColocatedExecutor, SplitExecutor
from rayunlearn.execution.placement import Placement
from rayunlearn.execution.signals import handlers_as_before
from rayunlearn.execution.wire import pack
from rayunlearn.inversion.deep_inversion import SyntheticSet
from rayunlearn.ledger.lineage import Version
from rayunlearn.ledger.sweeps import SweepView
from rayunlearn.lineages.context import Context
from rayunlearn.lineages.published import load_version
from rayunlearn.lineages.runs import RunFiles, States, loaded, saved
from rayunlearn.lineages.sweep_files import SETS, chosen_only, trial_files
from rayunlearn.methods.registry import method_named, require_access, require_granularity
from rayunlearn.methods.unlearning import Handed
from rayunlearn.models.classifiers import ClassifierSpec
from rayunlearn.recipes import Recipe
from rayunlearn.scheduling.requests import Request
from rayunlearn.scheduling.space import Space, assignments
from rayunlearn.seeds import derive_seed
from rayunlearn.serving.examples import load_examples
from rayunlearn.serving.generators import GENERATORS
from rayunlearn.settings import override, paths
from rayunlearn.storage.store import StoreFailed
from rayunlearn.tuning.search_space import SCORE, Search, search_algorithm, trial_scheduler
from rayunlearn.tuning.sweep_record import LIVE, About, EndOfSweep, Recorder, SweepRecord, SweepSettings
from rayunlearn.tuning.trackers import Tracker
from rayunlearn.tuning.trial import Behaviour, Common, Trial
from rayunlearn.unlearning.approximation import Approximation
from rayunlearn.unlearning.executor import Executor, RunInputs
from rayunlearn.unlearning.judging import compared, second_jobs, second_record
from rayunlearn.unlearning.phases import Case, synthesise
from rayunlearn.unlearning.requested import roles_of

SEARCHABLE_ACCESS = frozenset({"weights", "few_examples"})
"""What a method may declare whose settings are searched: nothing of it is training data."""


@dataclass(frozen=True, kw_only=True)
class Where:
    """Where trials are put; without influence on any result.

    Attributes:
        placement: of a trial's roles.
        wanted: the resource bundle of each role.
        threads: torch threads in each role.
        workers: processes that make what all trials share.
    """

    placement: Placement
    wanted: tuple[Mapping[str, float], ...]
    threads: int = 1
    workers: int = 1

    def total(self, resource: str) -> float:
        """What a trial reserves of a resource."""
        return sum(bundle.get(resource, 0.0) for bundle in self.wanted)


def where_for(
    recipe: Recipe, placement: Placement, *, cpus_per_role: float | None, gpus_per_role: float | None,
    threads: int = 1, workers: int = 1,
) -> Where:  # fmt: skip
    """A trial's place on the cluster.

    Raises:
        BadInput: more than the cluster can ever give.
    """
    placement = placement if method_named(recipe.method).roles else Placement.COLOCATED
    wanted = bundles(
        placement, ceiling(), cpus_per_role=cpus_per_role, gpus_per_role=gpus_per_role
    )
    return Where(placement=placement, wanted=tuple(wanted), threads=threads, workers=workers)


class Sweep:
    """One sweep over a storage location.

    Args:
        context: of the service; its recipe is what points of the space change.
        parent: the version that every trial unlearns from.
        request: what every trial is to forget. It is not recorded as one: this is practice.
        settings: how the space is searched.
        where: where trials are put.
        name: of the sweep; None for one made of all that its results depend on, so that the same command
            goes on with the same sweep.
        told: what makes the callbacks of experiment trackers.

    Raises:
        BadInput: a request that the method cannot serve, a method that is handed training data, settings in
            the space that change what all trials share, or a name that another sweep has.
    """

    def __init__(
        self,
        context: Context,
        parent: Version,
        request: Request,
        settings: SweepSettings,
        where: Where,
        *,
        name: str | None = None,
        told: Sequence[Tracker] = (),
    ) -> None:
        self.context, self.parent, self.request = context, parent, request
        self.settings, self.where, self.told = settings, where, told
        recipe = context.recipe
        self.method = method_named(recipe.method)
        require_granularity(recipe.method, request.kind)
        require_access(recipe.method, request.data_access)
        if not self.method.data_access <= SEARCHABLE_ACCESS:
            needs, may = ", ".join(sorted(self.method.data_access)), ", ".join(sorted(SEARCHABLE_ACCESS))
            allowed = f"a method that is handed nothing but {may}; this one declares {needs}"
            raise BadInput("method to search settings of", recipe.method, allowed)
        _require_shared_sets_alike(recipe, settings.space)
        self.spec = ClassifierSpec.from_dict(parent.model)
        self.roles = roles_of(
            request, self.spec.num_classes, parent.classes_forgotten, parent.samples_forgotten
        )
        self.seed = derive_seed(context.seed, "sweep", parent.lineage)
        self.name = name or f"sweep-{self._digest()[:10]}"
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", self.name):
            allowed = "1 to 64 letters, digits, '_' and '-', the first a letter or a digit"
            raise BadInput("--name", self.name, allowed)
        self.record = SweepRecord(
            About(
                name=self.name, parent=parent, request=request, settings=settings,
                placement=where.placement.value, cpus=where.total("CPU"), gpus=where.total("GPU"),
            ),
            context,
        )  # fmt: skip

    def _digest(self) -> str:
        """Of all that the results depend on."""
        s, request = self.settings, self.request.to_dict()
        told = [
            self.parent.version, request["kind"], request["target"], request["examples"],
            request["whole_classes"], self.context.recipe.config_hash, s.space.space_hash, s.sampler,
            s.scheduler, s.budget_text, s.grace, self.context.seed,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    def run(self) -> SweepView:
        """Search to the end of the budget, from wherever the sweep was stopped; a finished one is read.

        Raises:
            BadInput: as the making of D' does, where examples give too little.
        """
        known = self.record.begin()
        if known is not None:
            return known
        progress = self.context.progress
        progress.phase(self.name, "synthetic sets")
        common, sets, weights = self._common()
        progress.done()
        progress.phase(self.name, "search", total=None)
        self._search(common)
        progress.done(self.record.summary())
        progress.phase(self.name, "second set")
        self._measure(common, sets, weights)
        progress.done()
        return self.record.finish()

    def _common(self) -> tuple[Common, Mapping[str, Evidence], dict[str, Tensor]]:
        """What all trials share, put into the object store; all sets, of which they see one; the version."""
        recipe, store = self.context.recipe, self.context.store
        weights = load_version(store, self.parent)
        if self.roles.erased:
            with self._processes() as executor:
                sets, behaviour = self._held_out(executor, weights)
        else:
            sets, behaviour = self._synthetic(weights), None
        bank = sets.get("bank")
        inputs = RunInputs(
            method=self.method.name,
            settings=recipe.method_settings,
            handed=Handed(
                spec=self.spec, weights=weights, roles=self.roles, seed=self.seed,
                inverted=bank if isinstance(bank, SyntheticSet) else None,
                examples=behaviour.examples if behaviour else None,
            ),
            stop_set=sets["stop"], compared=compared(recipe),
        )  # fmt: skip
        kind = SplitExecutor if self.where.placement is Placement.SPLIT else ColocatedExecutor
        common = Common(
            store=store, sweep=self.name, recipe=recipe, placement=self.where.placement,
            threads=self.where.threads, seed=self.seed, shared=kind.share(inputs), behaviour=behaviour,
            imports=self.spec.imports,
        )  # fmt: skip
        return common, sets, weights

    def _processes(self) -> closing[Executor]:
        """What makes and measures what all trials share."""
        where = self.where
        return closing(
            open_executor(
                Placement.COLOCATED, threads=where.threads, workers=where.workers, imports=self.spec.imports
            )
        )

    def _synthetic(self, weights: dict[str, Tensor]) -> dict[str, SyntheticSet]:
        """Made once for a version and a request; found again by all that they depend on."""
        store, recipe = self.context.store, self.context.recipe
        per_class = self.method.inverted(recipe.method_settings)
        told = [
            self.parent.version, asdict(self.roles), asdict(recipe.inversion), asdict(recipe.validation),
            per_class, self.seed, compared(recipe),
        ]  # fmt: skip
        digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:24]
        name = f"{SETS}/{self.parent.lineage}/{self.parent.version}-{digest}.pt"
        if not store.exists(name):
            case = Case(
                spec=self.spec, weights=weights, roles=self.roles, recipe=recipe, seed=self.seed
            )
            with self._processes() as executor:
                made = synthesise(case, executor)
            store.put(name, saved({key: vars(each) for key, each in made.items()}))
        return {key: SyntheticSet(**each) for key, each in loaded(store.get(name), name).items()}

    def _held_out(
        self, executor: Executor, weights: dict[str, Tensor]
    ) -> tuple[Mapping[str, Evidence], Behaviour]:
        """The held-out parts of D' under the recipe's own settings, by which every trial is judged."""
        store = self.context.store
        examples, whole = load_examples(store, str(self.request.examples)), self.request.whole_classes
        made = Approximation(
            executor, RunFiles(store, f"{self.name}.sets"), spec=self.spec, weights=weights, roles=self.roles,
            settings=self.context.recipe.few_shot, examples=examples, seed=self.seed,
            progress=self.context.progress, shared=States(store), shared_as=self._generators, whole=whole,
        )  # fmt: skip
        made.train_generator()
        made.sample()
        made.filter()
        behaviour = Behaviour(
            spec=self.spec, weights=ray.put(pack(weights)), roles=self.roles, examples=examples, whole=whole,
            generators=self._generators,
        )  # fmt: skip
        return {"stop": made.held("stop"), "check": made.held("check")}, behaviour

    @property
    def _generators(self) -> str:
        """Where trials share generators: beside the version, so that they go with it."""
        return f"{GENERATORS}/{self.parent.lineage}/{self.parent.version}-"

    def _search(self, common: Common) -> None:
        """Let Tune carry out the trials, or those that are left of a search that was stopped."""
        folder = self.context.store.scratch("tune")
        # ours end the job, with the last checkpoint on disk; and what Tune knows is never older than this
        os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
        os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "2")
        os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
        os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
        # that of every trial the metrics file is missing, which nothing here writes
        logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
        place = tune.PlacementGroupFactory([{}, *map(dict, self.where.wanted)], strategy="PACK")
        trainable = tune.with_resources(tune.with_parameters(Trial, common=common), place)
        search = self._sampler()
        LIVE[self.name] = self.record
        try:
            begun = folder / self.name
            # the state comes seconds after the folder; one who was killed between has nothing to go on with
            if tune.Tuner.can_restore(str(begun)) and any(begun.glob("experiment_state-*.json")):
                tuner = tune.Tuner.restore(str(begun), trainable, param_space=search.param_space)
            else:
                tuner = tune.Tuner(
                    trainable,
                    param_space=search.param_space,
                    tune_config=tune.TuneConfig(
                        metric=SCORE, mode="max", search_alg=search.algorithm, scheduler=self._scheduler(),
                        num_samples=search.num_samples, reuse_actors=True,
                    ),
                    run_config=tune.RunConfig(
                        name=self.name, storage_path=str(folder), verbose=0, stop=EndOfSweep(self.name),
                        callbacks=[Recorder(self.name), *(make(self.name) for make in self.told)],
                        failure_config=tune.FailureConfig(max_failures=self.settings.retries),
                    ),
                )  # fmt: skip
            # Tune leaves its own, and the next Ctrl-C would do nothing
            with handlers_as_before(signal.SIGINT, signal.SIGUSR1):
                tuner.fit()
        except TuneError as error:
            raise self.record.error or error from error
        except OSError as error:
            if isinstance(error, RayUnlearnError):
                raise
            raise StoreFailed(f"{folder}: Tune could not keep its files there: {error}") from error
        finally:
            del LIVE[self.name]

    def _sampler(self) -> Search:
        s = self.settings
        own = {key: value for key, (_, value) in paths(self.context.recipe).items()}
        return search_algorithm(s.sampler, s.space, seed=self.seed % 2**31, trials=s.trials, first=own)

    def _scheduler(self) -> Any:
        cycles, every = self.cycles, self.context.recipe.validation.checkpoint_every
        grace = self.settings.grace or max(every, cycles // 16 // every * every)
        return trial_scheduler(self.settings.scheduler, cycles=cycles, grace=grace)

    @property
    def cycles(self) -> int:
        """Of a full trial, by the recipe's own settings; of relearning at most so many."""
        settings = self.context.recipe.method_settings
        if not self.roles.erased:
            return int(settings.cycles)
        samples = settings.per_class * self.spec.num_classes
        return int(settings.epochs * -(-samples // settings.batch_size))

    def _measure(
        self, common: Common, sets: Mapping[str, Evidence], weights: dict[str, Tensor]
    ) -> None:
        """The chosen checkpoint of each admissible trial by sets that no trial saw; the other files go."""
        files = {trial: trial_files(common.store, self.name, trial) for trial in self.record.results}
        found = [(r, r.step) for r in self.record.unmeasured() if r.step is not None]
        if found:
            recipe = self.context.recipe
            of_version = weights, sets, self.roles, recipe, self.seed
            jobs = [second_jobs(self.spec, files[r.trial].student(step), *of_version) for r, step in found]
            with self._processes() as executor:
                answers = iter(executor.map([job for of_one in jobs for job in of_one]))
            for (result, step), of_one in zip(found, jobs, strict=True):
                own = [next(answers) for _ in of_one]
                self.record.measured(result, second_record(step, own, recipe))
        for trial, result in self.record.results.items():
            chosen_only(files[trial], result.step)


def _require_shared_sets_alike(recipe: Recipe, space: Space) -> None:
    """Refuse settings that say which images trials learn from: these are made once for all."""
    method = method_named(recipe.method)
    own = method.inverted(recipe.method_settings)
    for dimension in space.dimensions:
        for value in dimension.values[:2] if dimension.kind != "choice" else dimension.values:
            changed = override(recipe, assignments({dimension.key: value}))
            if method.inverted(changed.method_settings) != own:
                allowed = "settings that leave the synthetic images alone which all trials share"
                raise BadInput("--space", dimension.key, allowed)
