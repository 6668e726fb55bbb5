"""What a paper's table or figure is made of: rows that are run, and the page that shows them.

A row is one method on one setup. At `--scale paper` its settings are the paper's; at `--scale cpu` some are
smaller, and the page lists every one that differs: `differences` computes the list from the two recipes, so
that it cannot leave one out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rayunlearn.errors import BadInput, nearest
from rayunlearn.methods.registry import METHODS
from rayunlearn.recipes import Recipe
from rayunlearn.settings import paths

SCALES = ("cpu", "paper")
NOT_SETTINGS = ("name", "publish_refused")
"""Fields of a recipe in which two scales may differ without a reduction."""


@dataclass(frozen=True)
class Printed:
    """What a paper prints of one model.

    Attributes:
        retain: accuracy on D_r, per cent.
        forget: accuracy on D_f or D_e, per cent.
        index: the anamnesis index.
        spread: standard deviations of the two accuracies.
    """

    retain: float
    forget: float
    index: float | None = None
    spread: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method on one setup: what each seed computes.

    Attributes:
        name: unique within the page, as `mnist-lenet-0-gkt`.
        group: the setup, as the page's heading says it.
        recipe: settings, with the method.
        paper: the same at the paper's scale.
        requests: classes to forget, one request after another; labels to erase, where examples are given.
        trajectory: measure every checkpoint on real data.
        printed: subject -> the paper's figures; the row's own method among them where the paper has it.
        share: of what is to be forgotten, the part that is named or shown; in the row's name where not all.
        called: what the page calls it and `printed` has it under; "" for the method.
        second: whether the original is the second one of its setup, trained from another seed.
        donor: few-shot row on another classifier, whose generator it takes over.
    """

    name: str
    group: str
    recipe: Recipe
    paper: Recipe
    requests: tuple[tuple[int, ...], ...]
    trajectory: bool = False
    printed: Mapping[str, Printed] = field(default_factory=dict)
    share: float = 1.0
    called: str = ""
    second: bool = False
    donor: Row | None = None

    @property
    def key(self) -> str:
        """Where its results are kept: changes with any setting."""
        own = f"{self.name}-{self.recipe.config_hash[:10]}"
        return own if self.donor is None else f"{own}-{self.donor.recipe.config_hash[:10]}"

    @property
    def kind(self) -> str:
        """Of its requests: "examples", or "samples" where they name less than a class, else "classes"."""
        if "examples" in METHODS[self.recipe.method].granularity:
            return "examples"
        return "classes" if self.share == 1 and self.recipe.data.mislabelling is None else "samples"

    @property
    def erased(self) -> str:
        """The measure of D_f, or of D_e."""
        return "forget_accuracy" if self.recipe.data.mislabelling is None else "mislabelled_accuracy"

    @property
    def wanted_high(self) -> bool:
        """Whether unlearning is to raise that measure: mislabelled samples are to be answered rightly."""
        return self.recipe.data.mislabelling is not None

    @property
    def title(self) -> str:
        """What the page calls it."""
        return self.called or self.recipe.method


Form = Literal[
    "comparison", "classes", "declared", "attack", "inversion", "progress", "sequence", "moons", "shots",
    "shares", "scatter", "time", "samples",
]  # fmt: skip
"""What a page shows of each row."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """A table or figure.

    Attributes:
        name: as `table-II`; what the paper claims of it is found by this.
        title: as the page's heading.
        rows: in order; none where something else is shown than what rows give.
        form: what is shown of each row.
        note: what has to be said besides the reductions.
        paper: a key of `papers.PAPERS`.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    form: Form = "comparison"
    note: str = ""
    paper: str = "zero-shot"


Pages = Mapping[str, Callable[[str], Page]]
"""Number of a table or figure -> its page at a scale."""


def numbered(tables: Pages, figures: Pages, kind: str, number: str, scale: str) -> Page:
    """A table or figure by its number.

    Raises:
        BadInput: no such table, figure or scale; the nearest are named.
    """
    if scale not in SCALES:
        raise BadInput("--scale", scale, nearest(scale, SCALES))
    known = {"table": tables, "figure": figures}[kind]
    if number not in known:
        raise BadInput(f"--{kind}", number, f"one of {', '.join(known)}")
    return known[number](scale)


def differences(ours: Recipe, paper: Recipe) -> list[tuple[str, object, object]]:
    """Settings in which two recipes differ: path, ours, the paper's."""
    there = {path: value for path, (_, value) in paths(paper).items()}
    return [
        (path, value, there[path])
        for path, (_, value) in paths(ours).items()
        if path not in NOT_SETTINGS and value != there[path]
    ]


def reductions(rows: Sequence[Row]) -> dict[str, tuple[object, object]]:
    """Settings in which rows differ from the paper's, ours and the paper's; other methods' left out."""
    own = {METHODS[each.recipe.method].section for each in rows} | {"train"}
    others = {method.section for method in METHODS.values()} - own
    return {
        path: (ours, paper)
        for each in rows
        for path, ours, paper in differences(each.recipe, each.paper)
        if path.split(".")[0] not in others
    }
