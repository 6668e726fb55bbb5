"""What is run for each table and figure of *Zero-Shot Machine Unlearning*, at the paper's scale and on CPUs.

The paper's settings are those of its section V.A.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from papers.rows import Page, Printed, Row, numbered
from papers.zero_shot_figures import (
    SEQUENCE,
    TABLE_FOUR,
    TABLE_ONE,
    TABLE_SIX,
    TABLE_TWO,
    THRESHOLDS,
)
from rayunlearn.recipes import Recipe, load_recipe
from rayunlearn.settings import override

CHECKPOINT_EVERY = {"gkt": 10, "gated_inversion": 2, "min_max": 2, "ispf": 4, "delete": 20}
"""Steps between checkpoints of methods that may be stopped anywhere, in their own steps."""

OPPONENTS = ("min_max", "gkt", "unsir", "amnesiac_relabel", "bad_teacher", "fisher", "gated_inversion")
"""Methods of the comparison on one setup, in the order of the page."""


def setup(dataset: str, model: str, scale: str) -> Recipe:
    """The recipe of a dataset and a model at a scale, for every method."""
    paper = load_recipe(f"{dataset}_{model}")
    if scale == "paper":
        return paper
    return override(paper, CPU[dataset, model])


_SMALL_NETWORK = (
    "model.width=0.125", "data.train_per_class=1000", "data.test_per_class=200", "train.batch_size=64",
    "gkt.batch_size=128", "gkt.generator_width=0.125", "gkt.cycles=600", "gkt.schedule_cycles=600",
    "gated_inversion.generator_width=0.125", "min_max.batch_size=64", "unsir.batch_size=64",
    "bad_teacher.batch_size=64", "amnesiac_relabel.batch_size=64", "fisher.max_samples=1000",
    "audit.relearn.batch_size=64", "audit.relearn.max_steps=200",
)  # fmt: skip

CPU: dict[tuple[str, str], tuple[str, ...]] = {
    ("mnist", "lenet"): ("gkt.generator_width=0.25", "gated_inversion.generator_width=0.25"),
    **{
        (dataset, model): _SMALL_NETWORK
        for dataset in ("mnist", "cifar10", "svhn")
        for model in ("allcnn", "resnet9")
    },
    ("cifar10", "lenet"): ("gkt.generator_width=0.125", "data.train_per_class=2000"),
    ("svhn", "lenet"): ("gkt.generator_width=0.125",),
}
"""What is smaller on CPUs, by dataset and model."""


def row(
    group: str, recipe: Recipe, paper: Recipe, method: str, requests: Sequence[Sequence[int]],
    *settings: str, variant: str = "", measures: str = "accuracy,probe,anamnesis", **fields: object,
) -> Row:  # fmt: skip
    """A row of a method on a setup, with further settings."""
    chosen = [f"method={method}", "publish_refused=true", f"audit.measures={measures}", *settings]
    if method in CHECKPOINT_EVERY:
        chosen.append(f"validation.checkpoint_every={CHECKPOINT_EVERY[method]}")
    if method == "gated_inversion":
        # synthetic accuracy is at 100 % long before the end, and the last tenth of a one-cycle schedule pays
        chosen.append("stopping.patience=none")
    targets = "_".join("".join(map(str, target)) for target in requests)
    name = f"{recipe.data.dataset}-{recipe.model.name}-{targets}-{method}{variant}"
    return Row(
        name=name, group=group, recipe=override(recipe, chosen), paper=override(paper, chosen),
        requests=tuple(tuple(target) for target in requests), **fields,  # type: ignore[arg-type]
    )  # fmt: skip


def table_one(scale: str) -> Page:
    """AllCNN on three datasets, one and two classes."""
    rows = []
    for (dataset, target), printed in TABLE_ONE.items():
        group = f"{TITLES[dataset]}, AllCNN, {_classes(target)}"
        recipes = setup(dataset, "allcnn", scale), setup(dataset, "allcnn", "paper")
        for method in ("min_max", "gkt", "gated_inversion"):
            rows.append(row(group, *recipes, method, [target], printed=printed))
    return Page(name="table-I", title="Table I: one and two classes, AllCNN", rows=tuple(rows))


def table_two(scale: str) -> Page:
    """LeNet and ResNet9, class 0; on LeNet and MNIST every comparison system."""
    rows = []
    for (dataset, model), printed in TABLE_TWO.items():
        group = f"{TITLES[dataset]}, {TITLES[model]}, class 0"
        recipes = setup(dataset, model, scale), setup(dataset, model, "paper")
        every = (dataset, model) == ("mnist", "lenet")
        for method in OPPONENTS if every else ("min_max", "gkt", "gated_inversion"):
            rows.append(row(group, *recipes, method, [(0,)], printed=printed))
    return Page(name="table-II", title="Table II: class 0, LeNet and ResNet9", rows=tuple(rows))


def table_three(scale: str) -> Page:
    """What each method needs and can forget: read off the registry, the same at every scale."""
    return Page(name="table-III", title="Table III: what the methods need", rows=(), form="declared")


def table_four(scale: str) -> Page:
    """The comparison on AllCNN and CIFAR-10, one and two classes."""
    rows = []
    recipes = setup("cifar10", "allcnn", scale), setup("cifar10", "allcnn", "paper")
    for target, printed in TABLE_FOUR.items():
        for method in OPPONENTS:
            group = f"CIFAR-10, AllCNN, {_classes(target)}"
            rows.append(row(group, *recipes, method, [target], printed=printed))
    title = "Table IV: comparison with methods that have data"
    return Page(name="table-IV", title=title, rows=tuple(rows))


def table_six(scale: str) -> Page:
    """Every class by itself."""
    recipes, where = _stand_in(scale)
    rows = []
    for target in range(10):
        printed = {method: Printed(figures[target], 0.0) for method, figures in TABLE_SIX.items()}
        for method in ("gkt", "gated_inversion"):
            rows.append(
                row(where, *recipes, method, [(target,)], printed=printed, measures="accuracy,probe")
            )
    return Page(
        name="table-VI", title="Table VI: every class by itself", rows=tuple(rows), form="classes",
        note=_stand_in_note(scale),
    )  # fmt: skip


def table_seven(scale: str) -> Page:
    """The membership inference attack."""
    recipes, where = _stand_in(scale)
    rows = [
        row(f"{where}, class 0", *recipes, method, [(0,)], variant="-entropy", measures="accuracy,entropy")
        for method in ("gkt", "gated_inversion")
    ]
    return Page(
        name="table-VII", title="Table VII: membership inference", rows=tuple(rows), form="attack",
        note=_stand_in_note(scale),
    )  # fmt: skip


def figure_three(scale: str) -> Page:
    """The model inversion attack."""
    recipes, where = _stand_in(scale)
    rows = [
        row(f"{where}, class 0", *recipes, method, [(0,)], variant="-inversion",
            measures="accuracy,inversion")
        for method in ("gkt", "gated_inversion")
    ]  # fmt: skip
    return Page(
        name="figure-3", title="Fig. 3: model inversion attack", rows=tuple(rows), form="inversion",
        note=_stand_in_note(scale),
    )  # fmt: skip


def figure_four(scale: str) -> Page:
    """Progress by cycles, synthetic and real: Fig. 4, and Fig. 7 from the same runs."""
    title = "Fig. 4 and 7: progress on real and on synthetic images"
    return _progress(scale, "figure-4", title, {"default": ("",)})


def figure_five(scale: str) -> Page:
    """Thresholds of the band-pass filter; the recipe's own is Fig. 4's row."""
    own = _stand_in(scale)[0][0].gkt.epsilon
    variants = {
        f"threshold {value:g}": ("",) if value == own else (f"-epsilon-{value:g}", f"gkt.epsilon={value}")
        for value in THRESHOLDS
    }
    return _progress(scale, "figure-5", "Fig. 5: threshold of the band-pass filter", variants)


def figure_six(scale: str) -> Page:
    """Losses: default, attention in the generator's loss, Jensen-Shannon."""
    variants = {
        "default": ("",),
        "attention in the generator's loss": ("-generator-attention", "gkt.generator_attention=true"),
        "Jensen-Shannon": ("-js", "gkt.divergence=js"),
    }
    return _progress(scale, "figure-6", "Fig. 6 and 8: losses", variants)


def figure_nine(scale: str) -> Page:
    """Seven requests one after another."""
    recipes, where = _stand_in(scale)
    rows = [
        row(where, *recipes, method, [(c,) for c in SEQUENCE], measures="accuracy,probe")
        for method in ("gkt", "gated_inversion")
    ]
    return Page(
        name="figure-9", title="Fig. 9: seven requests in sequence", rows=tuple(rows), form="sequence",
        note=_stand_in_note(scale),
    )  # fmt: skip


TABLES = {
    "I": table_one, "II": table_two, "III": table_three, "IV": table_four, "VI": table_six,
    "VII": table_seven,
}  # fmt: skip
FIGURES = {
    "3": figure_three, "4": figure_four, "5": figure_five, "6": figure_six, "7": figure_four,
    "8": figure_six, "9": figure_nine,
}  # fmt: skip
TITLES = {
    "cifar10": "CIFAR-10", "svhn": "SVHN", "mnist": "MNIST", "digits": "digits",
    "allcnn": "AllCNN", "lenet": "LeNet", "resnet9": "ResNet9",
}  # fmt: skip


def page(kind: str, number: str, scale: str) -> Page:
    """A table or figure by its number; see `numbered`."""
    return numbered(TABLES, FIGURES, kind, number, scale)


def _progress(scale: str, name: str, title: str, variants: Mapping[str, tuple[str, ...]]) -> Page:
    """A page of curves: what each is called -> what its row's name ends with, and its settings."""
    recipes, where = _stand_in(scale)
    rows = [
        row(f"{where}, class 0", *recipes, "gkt", [(0,)], "stopping.leak=1", *settings,
            variant=f"-curve{ending}", measures="accuracy", trajectory=True, called=called)
        for called, (ending, *settings) in variants.items()
    ]  # fmt: skip
    return Page(name=name, title=title, rows=tuple(rows), form="progress", note=_stand_in_note(scale))


def _stand_in(scale: str) -> tuple[tuple[Recipe, Recipe], str]:
    """AllCNN on CIFAR-10 as in the paper, or on the digits where there are CPUs only."""
    paper = load_recipe("cifar10_allcnn")
    if scale == "paper":
        return (paper, paper), "CIFAR-10, AllCNN"
    return (load_recipe("digits"), paper), "digits, AllCNN"


def _stand_in_note(scale: str) -> str:
    if scale == "paper":
        return ""
    return "The digits stand in for CIFAR-10: the paper's figures beside ours are not of the same data."


def _classes(target: Sequence[int]) -> str:
    return f"class {target[0]}" if len(target) == 1 else f"classes {' and '.join(map(str, target))}"
