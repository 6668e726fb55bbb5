"""The models of a task, each with what it is."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from benchmarks.zoo.cache import Cache, Weights
from benchmarks.zoo.pictures import drawn, photographed
from benchmarks.zoo.setups import Task
from benchmarks.zoo.students import StudentSettings, shaken, taught
from rayunlearn.auditing.labelled import open_data
from rayunlearn.auditing.training import TrainingJob, classifier_spec, fit, training_job
from rayunlearn.evaluation.accuracy import class_counts
from rayunlearn.evaluation.stand_ins import stand_in
from rayunlearn.evaluation.synthetic import assess, balanced_labels
from rayunlearn.inversion.deep_inversion import BatchNormStatistics, SyntheticSet, deep_inversion
from rayunlearn.inversion.deep_inversion import coarse as coarse_inversion
from rayunlearn.methods.registry import method_named
from rayunlearn.methods.training import StepInfo
from rayunlearn.methods.trivial import delete_head_row, gaussian_head, mask_logit
from rayunlearn.methods.unlearning import Handed, Samples
from rayunlearn.models.classifiers import ClassifierSpec, build_classifier, version_model
from rayunlearn.models.weights import version_id
from rayunlearn.recipes import Recipe
from rayunlearn.roles import Roles
from rayunlearn.scheduling.stopping import CheckpointRecord, choose
from rayunlearn.seeds import derive_seed
from rayunlearn.settings import stated

DAMAGES = (1.0, 2.0, 5.0, 10.0, 20.0)
"""Points of D_r that noise is to cost."""
EARLY = (0.1, 0.4)
"""Shares of a retraining's steps at which a model is kept that has learned too little."""
TRAJECTORY = (0.2, 1.0)
"""Shares of a method's steps at which a checkpoint is kept besides the one that the rule chooses."""
LONG_TRAJECTORY = tuple(round(0.2 * n, 1) for n in range(1, 21))
"""The same, of its steps, of a run that goes on to four times as many."""
CHECKPOINTS = 30
"""That the stopping rule sees of a run."""
LADDER = (0.2, 0.4)
"""Noise on the version's weights, by their root mean square: no data are needed to make these models."""
STOPPED = ("gated_inversion", "gkt")
"""Methods whose stop is judged."""
DATA_FREE = ("gated_inversion", "gkt", "ispf", "min_max", "delete")
WITH_DATA = ("fine_tune", "amnesiac_relabel")
STUDENT = StudentSettings()
STUDENTS = {
    "inverted": ("nothing", "hidden"), "pictures": ("shaken",), "photographs": ("nothing",),
    "retain": ("nothing",),
}
"""Kind of images -> starts of the students that learn from them."""
POOL = 2000
"""Images of a kind that students learn from."""
BISECTIONS = 9


@dataclass(frozen=True, kw_only=True)
class Member:
    """A model of a task.

    Attributes:
        family: "retrained", "undertrained", "noisy", "hidden", "hidden-noisy", "method" and "student"; of
            what a judge can make by itself "version", "ladder" and "stand-in".
        name: unique in its task.
        weights: of it.
        step: of a run, where it is a checkpoint.
        chosen: whether the stopping rule chose it.
    """

    family: str
    name: str
    weights: Weights
    step: int | None = None
    chosen: bool = False


def retain_data(family: str, name: str) -> bool:
    """Whether what made a model of the zoo had samples of the retain classes."""
    if family == "method":
        method = name.rpartition("-")[0]
        return method == "delete-real" or "retain" in method_named(method).data_access
    return family in ("retrained", "undertrained", "noisy") or name.startswith("student-retain-")


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """What is kept of a run.

    Attributes:
        weights: by step.
        chosen: the stopping rule's step; None where it chose none.
    """

    weights: dict[int, Weights]
    chosen: int | None


class Workshop:
    """Makes the models of the tasks of one original.

    Args:
        task: any of them; what is shared is of its setup and seed.
        cache: where weights are kept.
    """

    def __init__(self, task: Task, cache: Cache) -> None:
        self.setup, self.seed, self.cache = task.setup, task.seed, cache
        self.recipe: Recipe = task.setup.recipe
        data, model = self.recipe.data, self.recipe.model
        self.split_seed = derive_seed(self.seed, "split")
        self.dataset, self.parts = open_data(data, self.split_seed)
        self.spec: ClassifierSpec = classifier_spec(data, model.name, model.width)

    @cached_property
    def original(self) -> Weights:
        """Trained on all classes."""
        return self._trained(training_job(self.recipe, self.spec, self.seed), ())["1"]

    @property
    def _fast(self) -> tuple[str, ...]:
        """What tells models that were trained in half precision from others."""
        return ("bfloat16",) if self.setup.half else ()

    def _precision(self) -> torch.autocast:
        """Where networks are trained; methods and measures have single precision, as for users."""
        # without its cache, which would keep a whole training on the weights of its first step
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.setup.half, cache_enabled=False)

    def _trained(self, job: TrainingJob, shares: Sequence[float]) -> dict[str, Weights]:
        """A classifier at some shares of its training and at its end, by share."""
        shares = (*shares, 1.0)

        def make() -> dict[str, Weights]:
            found: dict[str, Weights] = {}

            def keep(info: StepInfo) -> None:
                for share in shares:
                    if info.step + 1 == round(share * info.total):
                        found[f"{share:g}"] = copy.deepcopy(dict(info.model.state_dict()))

            with self._precision():
                fit(job, on_step=keep)
            return found

        return self.cache.steps(("trained", job.key, shares, *self._fast), make)

    def retrained(self, excluded: Sequence[int], number: int) -> dict[str, Weights]:
        """The `number`-th model retrained without some classes, at some shares of its training."""
        job = training_job(self.recipe, self.spec, self.seed, excluded=excluded, gold=number)
        return self._trained(job, EARLY if number == 0 else ())

    def inverted(
        self,
        parent: Weights,
        roles: Roles,
        use: str,
        per_retain: int,
        per_forget: int,
        *,
        coarse: bool = False,
    ) -> SyntheticSet:
        """DeepInversion images of a version, plain or coarse ones, by the recipe's settings."""
        model, settings = version_model(self.spec, parent), self.recipe.inversion
        if coarse:
            settings = coarse_inversion(settings, model)
        labels = balanced_labels(roles, per_retain_class=per_retain, per_forget_class=per_forget)
        seed = derive_seed(self.seed, "synthetic", use)
        made_from = ("inverted", version_id(parent), labels.tolist(), stated(settings), seed)
        return self.cache.images(
            made_from, lambda: deep_inversion(model, labels, settings, seed=seed)
        )

    def run(
        self, parent: Weights, roles: Roles, method: str, *, length: float = 1.0, real: bool = False
    ) -> Checkpoints:
        """A run of a method with the recipe's settings; the paper's rule chooses a checkpoint.

        Args:
            parent: the version to forget from.
            roles: of the request.
            method: its name.
            length: how much further it goes than its steps.
            real: training images stand where the method has inverted ones.
        """
        declared = method_named(method)
        recipe = replace(self.recipe, method=method)
        settings, seed = recipe.method_settings, derive_seed(self.seed, "run", method)
        of = version_id(parent), stated(settings), method, repr(roles), seed, length, real, CHECKPOINTS
        made_from = ("run", *of)

        def make() -> dict[str, Weights]:
            bank = None
            per_retain, per_forget = declared.inverted(settings)
            if real:
                known = self._samples((*roles.retain, *roles.target))
                bank = SyntheticSet(images=known.images, labels=known.labels, requested=len(known.ids))
            elif per_retain or per_forget:
                bank = self.inverted(parent, roles, "bank", per_retain, per_forget)
            handed = Handed(
                spec=self.spec, weights=parent, roles=roles, seed=seed, inverted=bank,
                forget=self._samples(roles.target) if "forget" in declared.data_access else None,
                retain=self._samples(roles.retain) if "retain" in declared.data_access else None,
            )  # fmt: skip
            run = declared.begin(handed, settings, "cpu")
            sizes = self.recipe.validation
            plain = self.inverted(parent, roles, "stop", sizes.per_retain_class, sizes.per_forget_class)
            last = round(run.steps * length)
            every = max(1, run.steps // CHECKPOINTS)
            kept: dict[int, Weights] = {}
            records, step = [], 0
            while step < last:
                # an edit, and what has one result, is looked at once
                until = last if declared.fixed_length else min(step + every, last)
                run.advance(step + 1, until)
                step = until
                model = run.checkpoint()
                found = assess(model, plain, roles)
                run.observe(found.retain_loss)
                figures = {k: v for k, v in vars(found).items() if k in CheckpointRecord.__dataclass_fields__}
                records.append(
                    CheckpointRecord(step=step, pass_rate=run.report().get("pass_rate") or 0.0, **figures)
                )
                kept[step] = {k: v.detach().clone() for k, v in model.state_dict().items()}
            chosen = choose(records, replace(recipe.stopping, patience=None)).step
            shares = LONG_TRAJECTORY if length > 1 else TRAJECTORY
            wanted = {round(share * run.steps) for share in shares} | {last}
            nearest = {min(kept, key=lambda at: abs(at - step)) for step in wanted}
            names = {step: f"{step}" for step in nearest | ({chosen} if chosen else set())}
            return {name + ("c" if step == chosen else ""): kept[step] for step, name in names.items()}

        found = self.cache.steps(made_from, make)
        return Checkpoints(
            weights={int(name.rstrip("c")): weights for name, weights in found.items()},
            chosen=next((int(name[:-1]) for name in found if name.endswith("c")), None),
        )

    def stop_set(self, parent: Weights, roles: Roles) -> SyntheticSet:
        """What a run is stopped by."""
        sizes = self.recipe.validation
        return self.inverted(
            parent, roles, "stop", sizes.per_retain_class, sizes.per_forget_class, coarse=True
        )

    def keep_set(self, parent: Weights, roles: Roles) -> SyntheticSet:
        """By which it is predicted how much is kept, and from which stand-ins learn."""
        return self.inverted(
            parent, roles, "keep", self.recipe.validation.per_retain_class, 0, coarse=True
        )

    def stand_in(self, parent: Weights, roles: Roles, number: int) -> Weights:
        """One that the gate would train."""
        settings, seed = self.recipe.stand_ins, derive_seed(self.seed, "stand-in", number)
        of = version_id(parent), repr(roles), stated(settings), seed, *self._fast
        made_from = ("stand-in of the keep set", *of)

        def make() -> Weights:
            version = version_model(self.spec, parent)
            with self._precision():
                made = stand_in(version, self.keep_set(parent, roles), roles, settings, seed)
            return dict(made.state_dict())

        return self.cache.tensors(made_from, make)

    def student(
        self, start: Weights | None, parent: Weights, roles: Roles, kind: str, number: int
    ) -> Weights:
        """A student of the version's answers on images of one kind."""
        seed = derive_seed(self.seed, "student", kind, number)
        begun = None if start is None else version_id(start)
        of = version_id(parent), begun, repr(roles), kind, seed, stated(STUDENT), *self._fast
        made_from = ("student", *of)

        def make() -> Weights:
            model = build_classifier(self.spec, seed)
            if start is not None:
                model.load_state_dict(start)
            pool = self._pool(kind, parent, roles, seed)
            teacher = version_model(self.spec, parent)
            with self._precision():
                return taught(model, teacher, pool, roles.forget, STUDENT, seed)

        return self.cache.tensors(made_from, make)

    def _pool(self, kind: str, parent: Weights, roles: Roles, seed: int) -> Tensor:
        if kind == "pictures":
            return drawn(self.spec, POOL, seed)
        if kind == "photographs":
            return photographed(self.spec, POOL, seed)
        if kind == "retain":
            return self._samples(roles.retain).images[:POOL]
        per_retain, _ = method_named("gated_inversion").inverted(self.recipe.gated_inversion)
        return self.inverted(parent, roles, "bank", per_retain, 0).images

    def _samples(self, classes: Sequence[int]) -> Samples:
        ids = self.parts.train_ids
        ids = ids[torch.isin(self.dataset.labels[ids], torch.tensor(classes))]
        return Samples(images=self.dataset.images[ids], labels=self.dataset.labels[ids], ids=ids)

    def parent(self, task: Task) -> Weights:
        """The version that the task's last request is for: what the default method made of those before."""
        version = self.original
        for served in range(len(task.requests) - 1):
            before = Task(setup=self.setup, seed=self.seed, requests=task.requests[: served + 1])
            found = self.run(version, before.roles(self.spec.num_classes), self.recipe.method)
            version = found.weights[found.chosen or max(found.weights)]
        return version

    def damaged(self, weights: Weights, roles: Roles, points: float, seed: int) -> Weights:
        """The model with so much noise that its D_r is `points` lower.

        The noise's direction is the seed's; its size is found by bisection on test images.
        """

        def make() -> Weights:
            low, high = 0.0, 2.0
            wanted = self.accuracy(weights, roles.retain, most=1500) - points / 100
            best, nearest = weights, 1.0
            for _ in range(BISECTIONS):
                middle = (low + high) / 2
                noisy = shaken(weights, middle, seed)
                reached = self.accuracy(noisy, roles.retain, most=1500)
                if abs(reached - wanted) < nearest:
                    best, nearest = noisy, abs(reached - wanted)
                low, high = (middle, high) if reached > wanted else (low, middle)
            return best

        return self.cache.tensors(("damaged", version_id(weights), points, seed, BISECTIONS), make)

    def accuracy(self, weights: Weights, classes: Sequence[int], *, most: int | None = None) -> float:
        """On test images of some classes, of the first so many."""
        ids = self.parts.test_ids
        ids = ids[torch.isin(self.dataset.labels[ids], torch.tensor(classes))][:most]
        model = version_model(self.spec, weights)
        counts = class_counts(
            model, self.dataset.images[ids], self.dataset.labels[ids], self.spec.num_classes
        )
        right, count = counts.sums(classes)
        return right / count


def members(shop: Workshop, task: Task) -> Iterator[Member]:
    """All models of a task; first what a judge can make by itself."""
    roles = task.roles(shop.spec.num_classes)
    parent = shop.parent(task)
    yield Member(family="version", name="version", weights=parent)
    for scale in LADDER:
        noisy = shaken(parent, scale, derive_seed(task.seed, "ladder"))
        yield Member(family="ladder", name=f"ladder-{scale:g}", weights=noisy)
    for number in range(shop.recipe.stand_ins.number):
        weights = shop.stand_in(parent, roles, number)
        yield Member(family="stand-in", name=f"stand-in-{number}", weights=weights)
    golds = [shop.retrained(roles.forget, number) for number in range(2)]
    for number, gold in enumerate(golds):
        yield Member(family="retrained", name=f"retrained-{number}", weights=gold["1"])
    for share, weights in golds[0].items():
        if share != "1":
            yield Member(family="undertrained", name=f"undertrained-{share}", weights=weights)
    hidden = _hidden(shop, parent, roles)
    for family, whole in (("noisy", golds[0]["1"]), ("hidden-noisy", hidden["mask_logit"])):
        for points in DAMAGES:
            noisy = shop.damaged(whole, roles, points, derive_seed(task.seed, family))
            yield Member(family=family, name=f"{family}-{points:g}", weights=noisy)
    for name, weights in hidden.items():
        yield Member(family="hidden", name=name, weights=weights)
    normalised = bool(BatchNormStatistics(version_model(shop.spec, parent)).layers)
    for method in (*DATA_FREE, *WITH_DATA):
        if method == "ispf" and not normalised:
            continue  # its images are made to match BatchNorm's statistics
        found = shop.run(parent, roles, method, length=task.length if method in STOPPED else 1.0)
        last = max(found.weights)
        for step, weights in found.weights.items():
            if method not in DATA_FREE and step != last:
                continue
            yield Member(
                family="method", name=f"{method}-{step}", weights=weights, step=step,
                chosen=step == found.chosen,
            )  # fmt: skip
    found = shop.run(parent, roles, "delete", real=True)
    last = max(found.weights)
    yield Member(family="method", name=f"delete-real-{last}", weights=found.weights[last], step=last)
    shrunk = shaken(parent, 0.5, derive_seed(task.seed, "start"))
    starts = {"nothing": None, "shaken": shrunk, "hidden": hidden["mask_logit"]}
    for kind, of in STUDENTS.items():
        for start in of:
            number = list(starts).index(start)
            student = shop.student(starts[start], parent, roles, kind, number)
            yield Member(family="student", name=f"student-{kind}-{start}", weights=student)


def _hidden(shop: Workshop, parent: Weights, roles: Roles) -> dict[str, Weights]:
    """The version with its class hidden in the head, in three ways."""
    model = version_model(shop.spec, parent)
    made = {
        "mask_logit": mask_logit(model, roles.forget),
        "delete_head_row": delete_head_row(model, roles.forget),
        "gaussian_head": gaussian_head(model, retain=roles.retain, seed=derive_seed(shop.seed, "gaussian")),
    }
    return {name: dict(hidden.state_dict()) for name, hidden in made.items()}
