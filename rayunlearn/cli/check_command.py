"""What `rayunlearn check` runs: whether a model can be served, before anything is.

Nothing is asked of a dataset, no cluster is started and nothing is written. All that is wrong is listed at
once, as far as one thing does not hide another.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from rayunlearn.auditing.operator_code import code_found_by_workers
from rayunlearn.cli.console import print_json, say_error
from rayunlearn.cli.model_flags import ModelFlags
from rayunlearn.cli.options.check import CheckOptions
from rayunlearn.errors import BadInput, ExitCode, RayUnlearnError
from rayunlearn.inversion.deep_inversion import (
    BatchNormStatistics,
    InversionSettings,
    SyntheticSet,
    deep_inversion,
)
from rayunlearn.inversion.model_inversion import generator_spec
from rayunlearn.methods.catalogue import OF_THE_DATA
from rayunlearn.methods.registry import METHODS
from rayunlearn.methods.unlearning import Handed, Method
from rayunlearn.models.adapted import Adapted
from rayunlearn.models.checkpoints import load_checkpoint, read_checkpoint
from rayunlearn.models.classifiers import Classifier, ClassifierSpec, build_classifier
from rayunlearn.models.layers import layers
from rayunlearn.models.normalisation import BATCHNORMS
from rayunlearn.recipes import Recipe, load_recipe
from rayunlearn.reports.terminal import open_console
from rayunlearn.roles import Roles
from rayunlearn.seeds import generator
from rayunlearn.settings import override

T = TypeVar("T")

TRIAL_S = 10.0
"""About as long as images are made on trial."""
TRIAL_CLASSES, TRIAL_IMAGES = 10, 2
"""At most so many classes, and so many images of each."""
_TIMED = 3
"""Iterations by which it is told how long one takes."""
_PICTURES = 32


@dataclass(kw_only=True)
class Checked:
    """What was found of a model.

    Attributes:
        facts: thing -> what is to be known of it, in a sentence.
        wrong: all that has to be changed.
        methods: by name: None where it can serve the model without a dataset, else why not.
    """

    facts: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    methods: dict[str, str | None] = field(default_factory=dict)

    def attempt(self, call: Callable[[], T]) -> T | None:
        """What a call gives; None where it is refused, with the reason among what is wrong."""
        try:
            return call()
        except BadInput as error:
            self.wrong.append(str(error))
            return None


def run_check(options: CheckOptions) -> int:
    """Check a model, print what was found; returns the exit code: 2 where something has to be changed."""
    console = open_console()
    try:
        recipe = override(load_recipe(options.recipe), [*options.model.assignments(), *options.set])
    except RayUnlearnError as error:
        return say_error(console, str(error), error.exit_code, as_json=options.json)
    found = checked(recipe, options.model)
    if options.json:
        print_json({"recipe": options.recipe, **asdict(found)})
        return ExitCode.BAD_INPUT if found.wrong else ExitCode.OK
    for thing, said in found.facts.items():
        console.print(f"{thing}: {said}", soft_wrap=True, highlight=False, markup=False)
    for name, reason in found.methods.items():
        said = "can serve it" if reason is None else f"not: {reason}"
        console.print(f"method {name}: {said}", soft_wrap=True, highlight=False, markup=False)
    for number, said in enumerate(found.wrong, start=1):
        console.print(f"{number}. to change: {said}", soft_wrap=True, highlight=False, markup=False)
    return ExitCode.BAD_INPUT if found.wrong else ExitCode.OK


def checked(recipe: Recipe, flags: ModelFlags, *, trial_s: float = TRIAL_S) -> Checked:
    """Whether a model can be served under a recipe.

    Args:
        recipe: with what the flags state.
        flags: its checkpoint; without one the weights are random, and nothing is inverted.
        trial_s: seconds that images may be made for.
    """
    found = Checked()
    task = recipe.model.task or recipe.data.declared
    if task is None:
        of = f"data.dataset {recipe.data.dataset!r}"
        found.wrong.append(f"nothing is known of {of}: state --input, --mean, --std, --classes")
    found.attempt(lambda: code_found_by_workers(recipe, None))
    spec = None if task is None else found.attempt(lambda: recipe.model.spec(task, recipe.data.preprocessing))
    checkpoint = flags.checkpoint
    if spec is None:
        if checkpoint is not None:  # what is wrong with the file shows without a model as well
            found.attempt(lambda: read_checkpoint(checkpoint, flags.checkpoint_key))
        return found
    found.attempt(lambda: _require_sealable(spec))
    model = build_classifier(spec, 0).eval()
    if checkpoint is not None:
        inside = model.net if isinstance(model, Adapted) else model
        loaded = found.attempt(lambda: load_checkpoint(checkpoint, inside, key=flags.checkpoint_key))
        found.facts["checkpoint"] = "does not fit" if loaded is None else loaded[1] or "fits as it is"
    _describe(found, model)
    images = None
    if checkpoint is not None and not found.wrong:
        images = _trial(found, model, recipe.inversion, trial_s)
    for name, method in METHODS.items():
        found.methods[name] = _reason(method, recipe, model, images, given=checkpoint is not None)
    if not found.wrong and (reason := found.methods[recipe.method]) is not None:
        found.wrong.append(f"method {recipe.method!r} cannot serve it without a dataset: {reason}")
    return found


def _require_sealable(spec: ClassifierSpec) -> None:
    """Refuse code that a run's processes could not import, which are to have no path to data.

    Raises:
        BadInput: what it imports besides.
    """
    if not spec.imports:
        return
    text = "import sys, torch; from rayunlearn.access import import_code; import_code(sys.argv[1:])"
    path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
    ended = subprocess.run(
        [sys.executable, "-c", text, *spec.imports], env={**os.environ, "PYTHONPATH": path}, text=True,
        capture_output=True,
    )  # fmt: skip
    if ended.returncode:
        reason = ended.stderr.strip().splitlines()[-1]
        allowed = f"one of networks alone, which needs nothing that opens data ({reason})"
        raise BadInput("module of the factory", ", ".join(spec.imports), allowed)


def _describe(found: Checked, model: Classifier) -> None:
    spec, source = model.spec, model.spec.source
    count = sum(parameter.numel() for parameter in model.parameters())
    takes = f"images {spec.shape}, {spec.num_classes} classes"
    found.facts["model"] = f"{spec.name}, {count:,} parameters, {takes}"
    head = model.head_name if source is None else source.head or "(the network itself)"
    found.facts["head"] = f"{head}, {model.head.in_features} features to {model.head.out_features} logits"
    if source is not None:
        found.facts["maps"] = ", ".join(source.maps) or "none: methods compare no attention"
    found.facts["layers"] = f"{len(layers(spec))} below the head"
    tracked = len(BatchNormStatistics(model).layers)
    others = [
        name for name, m in model.named_modules() if isinstance(m, BATCHNORMS) and m.running_mean is None
    ]
    said = f"{tracked} layers with statistics" if tracked else "none: images are made by the fallback"
    if others:
        said += f"; without any (track_running_stats=False) are {', '.join(others[:5])}"
    found.facts["BatchNorm"] = said


def _trial(
    found: Checked, model: Classifier, settings: InversionSettings, trial_s: float
) -> SyntheticSet | None:
    """A few images of a few classes, in about the time given, and the share that the model accepts."""
    classes = torch.arange(min(TRIAL_CLASSES, model.spec.num_classes))
    labels = classes.repeat_interleave(TRIAL_IMAGES)
    whole = replace(settings, min_confidence=0.0)
    began = time.monotonic()
    deep_inversion(model, labels, replace(whole, iterations=_TIMED), seed=0)
    each_s = (time.monotonic() - began) / _TIMED
    steps = max(1, min(settings.iterations, round(trial_s / each_s)))
    images = deep_inversion(model, labels, replace(whole, iterations=steps), seed=0)
    share = float((_confidence(model, images) >= settings.min_confidence).float().mean())
    found.facts["inversion"] = (
        f"{share:.0%} of {len(labels)} images are accepted after {steps} of {settings.iterations} "
        f"iterations; all of them would take {each_s * settings.iterations:.0f} s here"
    )
    if share == 0 and steps == settings.iterations:
        found.wrong.append("no image made from the weights is accepted (inversion.min_confidence)")
    return images


def _confidence(model: Classifier, images: SyntheticSet) -> Tensor:
    with torch.no_grad():
        return model(images.images).softmax(dim=1).gather(1, images.labels[:, None])[:, 0]


def _reason(
    method: Method, recipe: Recipe, model: Classifier, images: SyntheticSet | None, *, given: bool
) -> str | None:
    """Why a method cannot serve a model without a dataset, begun to see; None where it can."""
    if given and "training_log" in method.data_access:
        return "it needs the log of the original's training, which a given model has not"
    if declared := method.data_access & OF_THE_DATA:
        return f"it needs the dataset: it declares {', '.join(sorted(declared))}"
    try:
        if "few_examples" in method.data_access:
            generator_spec(model.spec, recipe.few_shot.model_inversion)
            return None
        settings = getattr(recipe, method.section)
        wanted = method.inverted(settings)
        if any(wanted) and images is None:
            images = _noise(model.spec)
        method.begin(_handed(model, images if any(wanted) else None), _small(settings), "cpu")
    except BadInput as error:
        return str(error)
    return None


def _small(settings: Any) -> Any:
    """Settings whose run is begun at once: with a few pictures."""
    return replace(settings, pictures=_PICTURES) if hasattr(settings, "pictures") else settings


def _noise(spec: ClassifierSpec) -> SyntheticSet:
    labels = torch.arange(spec.num_classes).repeat_interleave(TRIAL_IMAGES)
    return SyntheticSet(images=torch.zeros(len(labels), *spec.shape), labels=labels, requested=len(labels))


def _handed(model: Classifier, images: SyntheticSet | None) -> Handed:
    noise = torch.randn(_PICTURES, *model.spec.shape, generator=generator(0, "noise to check by"))
    with torch.no_grad():  # a class that is seldom seen: what is begun has others to learn from
        answers = model(noise)
    target = int(answers.softmax(dim=1).mean(dim=0).argmin())
    retain = tuple(c for c in range(model.spec.num_classes) if c != target)
    weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
    roles = Roles(retain=retain, target=(target,), forgotten=())
    return Handed(spec=model.spec, weights=weights, roles=roles, seed=1, inverted=images)
