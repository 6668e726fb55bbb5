"""What is to be audited, by which gold and shadow models, and where the figures go.

The auditor writes its rows through the one appender; nobody who decides can read them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice

import ray

from rayunlearn.auditing.audit import AuditInputs, audit_task, inverted_images_task, shadow_candidates
from rayunlearn.auditing.labelled import mislabelled_by_task
from rayunlearn.auditing.shadows import shadow_jobs, shadow_models
from rayunlearn.auditing.training import TrainingJob, describe, train_gold, train_original, training_job
from rayunlearn.errors import BadInput
from rayunlearn.evaluation.lira import shadow_plan
from rayunlearn.evaluation.measures import MEASURES, left_out, measurable
from rayunlearn.execution.cluster import role_share
from rayunlearn.execution.remote import fetch
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.lineage import Version, request_events, versions
from rayunlearn.ledger.schemas import ALL_TABLES, Row
from rayunlearn.lineages.context import Context
from rayunlearn.lineages.fixed_settings import OF_THE_MODEL, require_fixed
from rayunlearn.lineages.published import load_version
from rayunlearn.lineages.requested import data_of
from rayunlearn.lineages.runs import RunFiles, kept_runs
from rayunlearn.models.classifiers import ClassifierSpec
from rayunlearn.models.weights import Weights, version_id
from rayunlearn.reports.inverted_images import InvertedImages
from rayunlearn.roles import Roles
from rayunlearn.seeds import derive_seed


@dataclass(frozen=True, kw_only=True)
class _Target:
    """A version to audit, its parent, and of the run that published it what is still there."""

    version: Version
    parent: Version
    checkpoints: Mapping[int, Weights] = field(default_factory=dict)
    chosen: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class VersionAudit:
    """What the audit of one version found.

    Attributes:
        version: its id.
        forget: classes that it has forgotten.
        rows: figures, as the ledger has them.
        inverted: what an attacker draws of each of these classes, if it was asked for; kept nowhere else.
    """

    version: str
    forget: tuple[int, ...]
    rows: list[Row]
    inverted: list[InvertedImages]


class Auditor:
    """Audits what a storage location has published.

    What a request by examples is to take away was taught by samples that it does not name. Where the recipe
    mislabels, these are the mislabelled samples, and the audit is that of their removal: gold models are
    retrained without them. Elsewhere nobody knows them, and there is no gold model.

    Args:
        context: of the service.
        threads: torch threads of each process that trains or measures.
        spec: of a classifier for the recipe's data; None asks for it where it is needed.
    """

    def __init__(self, context: Context, *, threads: int, spec: ClassifierSpec | None = None) -> None:
        self.context, self._spec = context, spec
        self.settings = context.recipe.audit
        self.reader = LedgerReader(context.store, ALL_TABLES)
        self.threads = threads

    def audit(self) -> None:
        """Measure every published run that has not been audited, on real data, in other processes.

        Those of lineages whose original had other data than the recipe's are left, which is said.
        """
        audited = set(self.reader.read("audits", columns=["run_id"]).column("run_id").to_pylist())
        # a run whose files were purged before anybody audited it can be audited no more
        kept = kept_runs(self.context.store) - audited
        targets = []
        for row in self.reader.read("runs", run_id=kept, event="published").to_pylist():
            chain = {v.version: v for v in versions(self.reader, row["lineage"])}
            version = chain[row["version"]]
            files = RunFiles(self.context.store, row["run_id"])
            if not self._is_there(version) or not self._is_of_the_data(next(iter(chain.values()))):
                continue
            steps = self.reader.read("checkpoints", run_id=row["run_id"]).column("step").to_pylist()
            (chosen, *_) = self.reader.read(
                "evaluations", run_id=row["run_id"], measure="chosen_step"
            ).to_pylist()
            targets.append(
                _Target(
                    version=version,
                    parent=chain[row["parent_version"]],
                    checkpoints={step: files.student(step) for step in sorted(set(steps))},
                    chosen=chosen["step"],
                )
            )
        self._record(self._prepared(targets))

    def audit_version(
        self,
        name: str,
        measures: Sequence[str] | None,
        *,
        invert: bool = False,
        by_hand: Collection[str] = (),
    ) -> VersionAudit:
        """Measure one version by its id or the beginning of it, and record the figures.

        Args:
            name: the id, or its beginning.
            measures: names of measures; None makes all that can be made of what was forgotten.
            invert: whether to give the images of the model inversion attack, too, of forgotten classes.
            by_hand: paths of settings that are meant; the model's others are the version's, as always.

        Raises:
            BadInput: no version, or several, of that name; one that was purged; one that has forgotten
                nothing; an original that is gone for good; a measure that is none, or that needs a
                forgotten class, or to know the forgotten samples, where there is none; a setting that
                the lineage's original has fixed otherwise.
        """
        lineages = sorted({row["lineage"] for row in self.reader.read("versions").to_pylist()})
        chains = {lineage: versions(self.reader, lineage) for lineage in lineages}
        known = [version for chain in chains.values() for version in chain]
        found = [version for version in known if name and version.version.startswith(name)]
        if len({version.version for version in found}) != 1:
            newest = [chain[-1].version[:12] for chain in chains.values()]
            allowed = f"the id of one version, or its beginning; the newest: {', '.join(newest) or 'none'}"
            raise BadInput("--version", name, allowed)
        version = found[-1]
        if version.parent is None:
            raise BadInput("--version", name, "a version that has forgotten something; this is the original")
        if not self._is_there(version):
            raise BadInput("--version", name, "a version that is still stored; this one was purged")
        self._require_fixed(chains[version.lineage][0], by_hand)
        chain = {v.version: v for v in chains[version.lineage]}
        target = _Target(version=version, parent=chain[version.parent])
        asked = tuple(MEASURES) if measures is None else tuple(measures)
        forget, samples = version.classes_forgotten, bool(self._samples(version))
        made = measurable(asked, forget, samples=samples)
        reasons = {name: left_out(name, forget, samples=samples) for name in asked if name not in made}
        if measures is not None and reasons:
            able = ", ".join(measurable(tuple(MEASURES), forget, samples=samples))
            why = "; ".join(sorted({str(reason) for reason in reasons.values()}))
            raise BadInput("--measures", list(reasons), f"{able} for this version: {why}")
        self.settings = replace(self.settings, measures=made)
        prepared = self._prepared([target])
        if not prepared:
            allowed = "a lineage whose original is stored, or can be trained again to the same bits"
            raise BadInput("--version", name, allowed)
        ((_, inputs),) = prepared
        invert = invert and "inversion" in made
        drawing = inverted_images_task.remote(inputs, self.threads) if invert else None
        return VersionAudit(
            version=version.version,
            forget=version.classes_forgotten,
            rows=self._record(prepared),
            inverted=[] if drawing is None else fetch(drawing),
        )

    def _require_fixed(self, original: Version, by_hand: Collection[str] = ()) -> None:
        """Refuse data, and settings of the model set by hand, that are not the original's."""
        recipe, model = self.context.recipe, original.model
        split_seed = derive_seed(self.context.seed, "split")
        spec = self._spec
        if spec is None:
            task, _ = describe(replace(data_of(recipe.data, original), sha256=None), split_seed)
            spec = ClassifierSpec.from_dict(model).for_task(task)
        meant = [name for name in OF_THE_MODEL if f"model.{name}" in by_hand]
        require_fixed(self.reader, original, recipe, spec, of_the_model=meant)
        self._require_the_data_of_before(original)

    def _require_the_data_of_before(self, original: Version) -> None:
        """Refuse a lineage that began without data, and was audited by data of another name before."""
        named = self.context.recipe.data.dataset
        if original.data_hash is not None:
            return
        before = self.reader.read("audits", columns=["dataset"], lineage=original.lineage)
        first = next(iter(before.column("dataset").to_pylist()), None)
        if first not in (None, named):
            allowed = (
                f"{first!r}, by which lineage {original.lineage!r} was audited first: it began without data, "
                "and figures of two data sets cannot be compared"
            )
            raise BadInput("data.dataset", named, allowed)

    def _is_of_the_data(self, original: Version) -> bool:
        try:
            self._require_fixed(original)
        except BadInput as error:
            self.context.progress.say(f"no audit of lineage {original.lineage}: {error}")
            return False
        return True

    def _is_there(self, version: Version) -> bool:
        return self.context.store.exists(version.path)

    def _prepared(self, targets: list[_Target]) -> list[tuple[_Target, AuditInputs]]:
        """What the audits of these versions are handed, but for those whose original is gone."""
        originals = {
            lineage: self._original(versions(self.reader, lineage)[0])
            for lineage in dict.fromkeys(target.version.lineage for target in targets)
        }
        targets = [target for target in targets if originals[target.version.lineage] is not None]
        if not targets:
            return []
        golds = self._golds([target.version for target in targets], originals)
        shadows = [self._shadows(target.version) for target in targets]
        prepared = []
        for target, models, shadow in zip(targets, golds, shadows, strict=True):
            original = originals[target.version.lineage]
            assert original is not None
            prepared.append((target, self._inputs(target, original, models, shadow)))
        return prepared

    def _record(self, prepared: list[tuple[_Target, AuditInputs]]) -> list[Row]:
        """Audit versions side by side and record their rows."""
        if not prepared:
            return []
        progress = self.context.progress
        progress.phase("audit", f"measure {len(prepared)} versions on real data")
        pending = [audit_task.remote(inputs, self.threads) for _, inputs in prepared]
        written: list[Row] = []
        for (target, _), answer in zip(prepared, fetch(pending), strict=True):
            version = target.version
            stamp = {"run_id": version.run_id, "lineage": version.lineage, "at": self.context.clock()}
            rows = [{"version": version.version, **measured, **stamp} for measured in answer]
            self.context.ledger.append("audits", rows)
            written += rows
        progress.done()
        return written

    def _original(self, first: Version) -> Weights | None:
        """The lineage's first version; where it was purged, trained again if that gives the same bits."""
        if self._is_there(first):
            return load_version(self.context.store, first)
        self.context.progress.phase("audit", "train the purged original again")
        weights = train_original(self._job(first), threads=self.threads)
        same = version_id(weights) == first.version
        self.context.progress.done("" if same else "not the same model: no audit")
        return weights if same else None

    def _job(self, version: Version, gold: int | None = None) -> TrainingJob:
        spec = ClassifierSpec.from_dict(version.model)
        return training_job(
            replace(self.context.recipe, data=data_of(self.context.recipe.data, version)),
            spec,
            self.context.seed,
            excluded=version.classes_forgotten,
            excluded_samples=self._samples(version),
            gold=gold,
        )

    def _samples(self, version: Version) -> tuple[int, ...]:
        """Single samples that must be gone: those named, and the mislabelled once a behaviour is to be."""
        taught = self._mislabelled if self._without_a_behaviour(version) else ()
        return tuple(sorted({*version.samples_forgotten, *taught}))

    def _without_a_behaviour(self, version: Version) -> bool:
        """Whether this version or one before it served a request by examples that names no whole class."""
        chain = versions(self.reader, version.lineage)
        served = {i for before in chain[: chain.index(version) + 1] for i in before.request_ids}
        asked = [events[0] for events in request_events(self.reader, served).values()]
        return any(row["kind"] == "examples" and not row["whole_classes"] for row in asked)

    @cached_property
    def _mislabelled(self) -> tuple[int, ...]:
        """The training samples with a wrong label; none where the recipe mislabels nothing."""
        found = mislabelled_by_task(self.context.recipe.data, derive_seed(self.context.seed, "split"))
        return () if found is None else tuple(found.changed_ids.tolist())

    def _golds(
        self, published: list[Version], originals: Mapping[str, Weights | None]
    ) -> list[list[Weights]]:
        """Models retrained without what each version has forgotten, by one run of workers.

        None for a version without a behaviour that nobody knows the samples of.
        """
        workers = self.settings.gold_workers
        each = [
            0 if self._without_a_behaviour(version) and not self._mislabelled else self.settings.golds
            for version in published
        ]
        jobs = [
            self._job(version, gold=i)
            for version, count in zip(published, each, strict=True)
            for i in range(count)
        ]
        if not jobs:
            return [[] for _ in published]
        self.context.progress.phase("audit", f"retrain {len(jobs)} gold models")
        golds = train_gold(
            jobs,
            [
                originals[version.lineage] or {}
                for version, count in zip(published, each, strict=True)
                for _ in range(count)
            ],
            self.context.store.scratch("train"),
            workers=workers,
            cpus_per_worker=role_share(ray.cluster_resources().get("CPU", 0), workers),
            threads=self.threads,
        )
        self.context.progress.done()
        left = iter(golds)
        return [list(islice(left, count)) for count in each]

    def _shadows(self, version: Version) -> list[Weights]:
        """Shadow models for the likelihood ratio attack, where it is asked for."""
        if "likelihood_ratio" not in measurable(self.settings.measures, version.classes_forgotten):
            return []
        forget, data = version.classes_forgotten, data_of(self.context.recipe.data, version)
        split_seed = derive_seed(self.context.seed, "split")
        self.context.progress.phase("audit", f"train {self.settings.shadows} shadow models")
        candidates = fetch(_shadow_candidates.remote(data, split_seed, forget))
        plan = shadow_plan(candidates, self.settings.shadows, split_seed)
        original = replace(self._job(version), excluded=(), excluded_samples=())
        models = shadow_models(
            shadow_jobs(original, forget, candidates, plan), self.context.store, threads=self.threads
        )
        self.context.progress.done("; ".join(models.notes))
        return models.weights

    def _inputs(
        self, target: _Target, original: Weights, golds: list[Weights], shadows: list[Weights]
    ) -> AuditInputs:
        version, parent = target.version, target.parent
        spec, gone = ClassifierSpec.from_dict(version.model), version.classes_forgotten
        samples_before = self._samples(parent)
        return AuditInputs(
            spec=spec,
            roles=Roles(
                retain=tuple(c for c in range(spec.num_classes) if c not in gone),
                target=tuple(c for c in gone if c not in parent.classes_forgotten),
                forgotten=parent.classes_forgotten,
                target_samples=tuple(sorted({*self._samples(version)} - {*samples_before})),
                forgotten_samples=samples_before,
            ),
            original=original,
            unlearned=load_version(self.context.store, version),
            golds=golds,
            checkpoints=target.checkpoints,
            chosen=target.chosen,
            data=data_of(self.context.recipe.data, version),
            split_seed=derive_seed(self.context.seed, "split"),
            settings=self.settings,
            seed=derive_seed(self.context.seed, "audit", str(version.run_id)),
            shadows=shadows,
            scratch=str(self.context.store.scratch("train")) if self.settings.relearn_workers else None,
        )


_shadow_candidates = ray.remote(shadow_candidates)
