"""Data sets, networks and requests of the zoo, at the size of two CPU cores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rayunlearn.recipes import Recipe, load_recipe
from rayunlearn.recipes.zero_shot import paper_recipe
from rayunlearn.roles import Roles
from rayunlearn.settings import override

Classes = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How an original is trained, and how its requests are served.

    Attributes:
        dataset: name of a dataset.
        model: key of `CLASSIFIERS`.
        settings: of the recipe, by dotted path.
        seeds: seed of an original -> the requests that it is to serve, each a sequence of which the last is
            judged.
        variant: what tells it from another setup of the same data set and network.
    """

    dataset: str
    model: str
    settings: tuple[str, ...]
    seeds: Mapping[int, Sequence[Sequence[Classes]]]
    variant: str = ""

    @property
    def half(self) -> bool:
        """Whether networks are trained in half precision, which halves the time on a CPU that has it."""
        return self.dataset != "digits" and self.model != "lenet"

    @property
    def name(self) -> str:
        """Data set and network, and what else tells it from others."""
        return f"{self.dataset}-{self.model}{self.variant}"

    @property
    def recipe(self) -> Recipe:
        """Settings of the original, of the inversions and of every method."""
        if self.dataset == "digits":
            made = load_recipe("digits")
        else:
            known = self.model if self.model in ("allcnn", "lenet", "resnet9") else "allcnn"
            made = paper_recipe(self.dataset, known)
        return override(made, (f"model.name={self.model}", *self.settings))


@dataclass(frozen=True, kw_only=True)
class Task:
    """One request: its last, after those that were served before.

    Attributes:
        setup: of the original.
        seed: of the original.
        requests: classes of each.
    """

    setup: Setup
    seed: int
    requests: Sequence[Classes]

    @property
    def name(self) -> str:
        """Unique in the zoo.

        >>> Task(setup=SETUPS["digits-allcnn"], seed=1, requests=((7,), (2,))).name
        'digits-allcnn-1-7-2'
        """
        return "-".join([self.setup.name, str(self.seed), *("".join(map(str, r)) for r in self.requests)])

    def roles(self, num_classes: int) -> Roles:
        """Of the last request."""
        gone = tuple(sorted({c for request in self.requests[:-1] for c in request}))
        target = self.requests[-1]
        retain = tuple(c for c in range(num_classes) if c not in {*gone, *target})
        return Roles(retain=retain, target=target, forgotten=gone)

    @property
    def length(self) -> float:
        """How much further than their steps the runs go whose stop is judged."""
        return 4.0 if self.name in LONG else 1.0


LONG = ("digits-allcnn-0-0", "mnist-allcnn-0-0", "cifar10-allcnn-0-0")
"""Tasks by which the stop of a run is judged."""
ONE, TWO, SEVEN, SECOND = ((0,),), ((3, 5),), ((7,),), ((7,), (2,))
BOTH = {0: (ONE,), 1: (SECOND,)}
"""One class; of another original a class and then a second one."""

_SMALL = (
    "gkt.batch_size=64", "gkt.generator_width=0.125", "gkt.cycles=160", "gkt.schedule_cycles=160",
    "gated_inversion.generator_width=0.125", "gated_inversion.cycles=120",
    "gated_inversion.schedule_cycles=120", "gated_inversion.batch_size=64",
    "gated_inversion.inverted_per_class=40", "ispf.batch_size=64", "ispf.generator_width=0.125",
    "ispf.epochs=10", "min_max.batch_size=64", "min_max.noise_steps=120",
    "unsir.batch_size=64", "unsir.noise_copies=4", "bad_teacher.batch_size=64",
    "bad_teacher.lr=0.001", "amnesiac_relabel.batch_size=64", "amnesiac_relabel.epochs=1",
    "amnesiac_relabel.lr=0.001", "delete.lr=0.003", "delete.steps=300",
    "inversion.iterations=200",
)  # fmt: skip
_DIGITS = ("min_max.noise_steps=120", "gkt.cycles=240", "gkt.schedule_cycles=240", "ispf.epochs=20")
_MNIST = (*_SMALL, "data.train_per_class=1000", "model.width=0.125", "train.batch_size=64")
WHOLE_MNIST = Setup(
    dataset="mnist", model="allcnn", variant="whole", seeds={},
    settings=(*_SMALL, "model.width=0.125", "train.batch_size=128", "train.epochs=5"),
)
"""All images of MNIST, for measures of time; no task of the zoo."""
_NATURAL = (*_SMALL, "train.batch_size=128", "train.crop=2", "train.weight_decay=0.01")

SETUPS = {
    setup.name: setup
    for setup in (
        Setup(dataset="digits", model="allcnn", settings=_DIGITS, seeds={0: (ONE,), 1: (SEVEN, SECOND)}),
        Setup(
            dataset="digits", model="allcnn", variant="brief",
            settings=(*_DIGITS, "model.width=0.125", "train.epochs=8"), seeds={2: (ONE,)},
        ),
        Setup(dataset="digits", model="resnet9", settings=_DIGITS, seeds={1: (SECOND,)}),
        Setup(
            dataset="digits", model="preactresnet18", settings=(*_DIGITS, "model.width=0.125"),
            seeds={0: (TWO,)},
        ),
        Setup(dataset="mnist", model="lenet", settings=(*_SMALL, "train.batch_size=128"), seeds=BOTH),
        Setup(dataset="mnist", model="allcnn", settings=_MNIST, seeds={0: (ONE,)}),
        Setup(dataset="mnist", model="resnet9", settings=_MNIST, seeds={1: (SECOND,)}),
        Setup(dataset="mnist", model="preactresnet18", settings=_MNIST, seeds={1: (TWO,)}),
        Setup(dataset="svhn", model="lenet", settings=(*_NATURAL, "train.epochs=40"), seeds=BOTH),
        Setup(
            dataset="svhn", model="allcnn", settings=(*_NATURAL, "model.width=0.25", "train.epochs=15"),
            seeds={0: (ONE,)},
        ),
        Setup(
            dataset="svhn", model="resnet9", settings=(*_NATURAL, "model.width=0.25", "train.epochs=15"),
            seeds={0: (TWO,)},
        ),
        Setup(
            dataset="svhn", model="preactresnet18",
            settings=(*_NATURAL, "model.width=0.125", "train.epochs=15"), seeds={1: (ONE,)},
        ),
        Setup(
            dataset="cifar10", model="allcnn",
            settings=(*_NATURAL, "model.width=0.25", "train.epochs=10", "train.flips=true"), seeds=BOTH,
        ),
        Setup(
            dataset="cifar10", model="resnet9",
            settings=(*_NATURAL, "model.width=0.25", "train.epochs=8", "train.flips=true"),
            seeds={1: (TWO,)},
        ),
    )
}  # fmt: skip
