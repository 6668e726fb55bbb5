"""What the phases of an attempt give, kept in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter

from rayunlearn.errors import BadInput
from rayunlearn.inversion.deep_inversion import SyntheticSet
from rayunlearn.models.weights import version_id
from rayunlearn.unlearning.approximation import Approximation
from rayunlearn.unlearning.attempt import unchanged
from rayunlearn.unlearning.executor import Executor
from rayunlearn.unlearning.phases import Case, Checkpoint, Granted, Left, Row, Weights
from rayunlearn.unlearning.progress import Progress, Quiet


class InMemory:
    """A `Keeper` for one attempt in one process: nothing is there before, and nothing is left afterwards.

    Of each checkpoint the weights are kept, since any may be chosen; the state of the run is not asked for.

    Args:
        case: of the run.
        title: of the run, for the progress.
        progress: told how far it is.

    Attributes:
        checkpoints: figures of each, with its `step`, in order.
        evaluations: rows without their stamp.
        seconds: of each phase that has ended, by its name.
    """

    def __init__(self, case: Case, title: str = "", progress: Progress | None = None) -> None:
        self.case, self.title = case, title
        self.progress = progress or Quiet()
        self.checkpoints: list[Row] = []
        self.evaluations: list[Row] = []
        self.seconds: dict[str, float] = {}
        self._weights: dict[int, Weights] = {}

    @contextmanager
    def phase(self, name: str, *, total: int | None = None, warning: str | None = None) -> Iterator[None]:
        """Take its time."""
        self.progress.phase(self.title, name, total=total)
        began = perf_counter()
        yield
        self.seconds[name] = perf_counter() - began
        self.progress.done(warning or "")

    def granted(self) -> Granted:
        """Nothing: only the version is at hand."""
        return Granted()

    def bank(self) -> SyntheticSet | None:
        """None: no version handed it on."""
        return None

    def sets(self) -> Mapping[str, SyntheticSet] | None:
        """None."""
        return None

    def keep_sets(self, sets: Mapping[str, SyntheticSet]) -> None:
        """Not needed again."""

    def approximation(self, executor: Executor) -> Approximation:
        """Refused: D' is made in files."""
        allowed = "none where nothing is stored: name classes to forget"
        raise BadInput("labels to erase", self.case.roles.erased, allowed)

    def rows(self, measure: str) -> Sequence[Row]:
        """None from before."""
        return ()

    def keep_rows(self, rows: Sequence[Row], of: Weights | None = None) -> None:
        """Keep them."""
        self.evaluations += rows

    def left(self) -> Left:
        """Nothing."""
        return Left()

    def keep_checkpoint(self, made: Checkpoint) -> None:
        """Keep its figures and weights."""
        self.checkpoints.append(made.figures)
        self._weights[made.step] = made.weights

    def steps(self) -> Sequence[int]:
        """Of all checkpoints."""
        return list(self._weights)

    def weights(self, step: int) -> Weights:
        """Of a checkpoint."""
        return self._weights[step]

    def known(self, candidate: Weights) -> str | None:
        """The version before, where nothing was changed."""
        identity = version_id(candidate)
        return unchanged(identity) if identity == version_id(self.case.weights) else None
