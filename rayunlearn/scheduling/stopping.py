"""The stopping rule of a zero-shot run: when to stop, and which checkpoint to publish.

Both are pure functions of dense checkpoint records that hold synthetic measures alone (Appendix B.1 of
Chundawat et al., "Zero-Shot Machine Unlearning"). Section V.C.4 says what they rest on: retain accuracy
rises first; once the retain classes are learned the generator has only the forget class left to show,
and the forget accuracy shoots up, within less than a hundred cycles. "One should select the best
checkpoint before the accuracy on D_f starts to rise." What the paper leaves open is decided here:

- *When the class has come back.* Only a class that was gone can come back: a leak counts after the first
  checkpoint that is both learned (`min_retain`) and clean (`forget_tolerance`). A random student that
  answers every image with the forget class has leaked nothing.
- *Which checkpoints are safe.* Those at least `guard` checkpoints before the leak. The next checkpoint
  that nobody has seen yet may be the leak, so the end of the records counts as one; hence what is
  admissible once stays so, whatever comes next.
- *Which of them is best.* The highest predicted D_r (`rayunlearn.scheduling.keeping`), or by the paper's
  rule the highest retain accuracy, after a centred median. Synthetic retain accuracy saturates (an image
  made from the teacher is easy), and a prediction is not exact, so differences of up to `min_delta` are
  ties. Of
  these, those whose forget mass is within `mass_delta` of the lowest, because mass rises before accuracy
  does; then the latest, because training longer under a falling learning rate still helps on real images
  when the synthetic ones cannot show it any more. The exact lowest mass would let noise far below the
  filter's eps pick an early checkpoint; what the filter itself cannot see makes no difference here either.

Of single samples there is no synthetic image: for a request that names some, retain accuracy alone
decides, and the reason says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median_low
from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from rayunlearn.errors import BadInput
from rayunlearn.fields import Checked, Share
from rayunlearn.scheduling.bounds import check_correct, check_forget

_ROUNDING = 1e-9
"""Differences of accuracies are compared with this much room; counts below 10^4 differ by far more."""


@dataclass(frozen=True)
class CheckpointRecord(Checked):
    """What was measured on one checkpoint with the synthetic set for stopping.

    Attributes:
        step: the cycle.
        retain_correct: images of the retain classes that the student gets right ...
        retain_count: ... of so many.
        forget_correct: images of the classes to forget that the student gets right ...
        forget_count: ... of so many.
        forget_mass: mean probability that the student gives to the classes to forget on their images.
        pass_rate: share of the generator's images that the band-pass filter let through.
        samples: the request names single samples. Forget counts and mass are 0 then.
        predicted: D_r as a share of the version's, not cut off at 1; None where it is not predicted.
    """

    step: NonNegativeInt
    retain_correct: NonNegativeInt
    retain_count: PositiveInt
    forget_correct: NonNegativeInt
    forget_count: NonNegativeInt
    forget_mass: Share
    pass_rate: Share
    samples: bool = False
    predicted: float | None = None

    def __post_init__(self) -> None:
        """Refuse figures that no measurement can give."""
        super().__post_init__()
        check_correct("retain", self.retain_correct, self.retain_count)
        check_forget(self.forget_correct, self.forget_count, samples=self.samples)

    @property
    def retain_accuracy(self) -> float:
        """Share of the retain images that the student gets right."""
        return self.retain_correct / self.retain_count

    @property
    def score(self) -> float:
        """What checkpoints are compared by: the predicted D_r, or where there is none the retain accuracy."""
        return self.retain_accuracy if self.predicted is None else self.predicted

    @property
    def forget_accuracy(self) -> float:
        """Share of the forget images that the student gets right; 0 where there are none."""
        return self.forget_correct / self.forget_count if self.forget_count else 0.0


@dataclass(frozen=True, kw_only=True)
class StoppingSettings(Checked, section="stopping"):
    """Settings of `should_stop` and `choose`.

    Attributes:
        forget_tolerance: highest forget accuracy of an admissible checkpoint; below `leak`.
        leak: forget accuracy from which the class counts as come back.
        confirm: so many checkpoints in a row at `leak` or above make a leak; 1 believes the first, more
            let single outliers pass. Until it is settled, the first of the row bounds what is admissible.
        guard: an admissible checkpoint lies at least so many checkpoints before the leak.
        smooth: width of the centred median over scores, odd, in checkpoints. At either end of
            the records only those that exist are taken, and the lower of the two middle ones.
        min_retain: retain accuracy below which a student has learned nothing and is never admissible.
        patience: stop after so many checkpoints without a smoothed score more than `min_delta` above the
            best before, counted from the first learned checkpoint; None never stops for it.
        score: what checkpoints are compared by: their "predicted" D_r, or as in the paper their "accuracy"
            on synthetic retain images. It also says which images these are: coarse ones, or plain ones.
        min_delta: difference of scores that is none; of accuracies a good value is one synthetic image's
            worth. Absolute, so that the rule does not depend on the size of the set.
        mass_delta: difference of forget masses that is none; the filter's eps by default.
    """

    forget_tolerance: Share = 0.0
    leak: Share = 0.05
    confirm: PositiveInt = 1
    guard: PositiveInt = 1
    smooth: PositiveInt = 3
    min_retain: Share = 0.5
    patience: PositiveInt | None = 40
    score: Literal["predicted", "accuracy"] = "predicted"
    min_delta: Share = 0.002
    mass_delta: Share = 0.01

    def __post_init__(self) -> None:
        """Check every field; refuse those that contradict each other."""
        super().__post_init__()
        if self.forget_tolerance >= self.leak:
            raise BadInput("stopping.forget_tolerance", self.forget_tolerance, f"below leak, {self.leak}")
        if self.smooth % 2 == 0:
            raise BadInput("stopping.smooth", self.smooth, "an odd number of checkpoints")


class StopReason(StrEnum):
    """Why a run need not go on."""

    CLASS_CAME_BACK = "class_came_back"
    NO_IMPROVEMENT = "no_improvement"


@dataclass(frozen=True)
class Stop:
    """The first stop in a trajectory: its reason, its step, and how many records were seen by then."""

    reason: StopReason
    step: int
    records: int


@dataclass(frozen=True)
class Choice:
    """The checkpoint to publish, or None with the reason; and every step that was admissible."""

    step: int | None
    reason: str
    admissible: tuple[int, ...]


def should_stop(records: Sequence[CheckpointRecord], settings: StoppingSettings) -> StopReason | None:
    """Whether the records so far are reason to stop.

    Once it says so it says so, for the same reason, for every longer row of records.

    Raises:
        BadInput: records out of order, or on sets of different sizes.
    """
    stop = first_stop(records, settings)
    return stop.reason if stop else None


def first_stop(records: Sequence[CheckpointRecord], settings: StoppingSettings) -> Stop | None:
    """Where `should_stop` speaks first, had it been asked after each record.

    Raises:
        BadInput: records out of order, or on sets of different sizes.
    """
    _check_records(records)
    leak = _leak(records, settings)
    came_back = leak + settings.confirm if leak is not None else None
    stalled = _stalled(records, settings)
    if came_back is not None and (stalled is None or came_back <= stalled):
        return Stop(StopReason.CLASS_CAME_BACK, records[came_back - 1].step, came_back)
    if stalled is not None:
        return Stop(StopReason.NO_IMPROVEMENT, records[stalled - 1].step, stalled)
    return None


def choose(records: Sequence[CheckpointRecord], settings: StoppingSettings) -> Choice:
    """The checkpoint to publish, of those recorded up to the first stop.

    Records after the first stop change nothing, so a trajectory that an audit let run on gives the
    choice of the run that stopped.

    Raises:
        BadInput: records out of order, or on sets of different sizes.
    """
    stop = first_stop(records, settings)
    if stop:
        records = records[: stop.records]
    leak = _leak(records, settings)
    bound = leak if leak is not None else len(records) - _trailing_leaks(records, settings)
    learned = [i for i, r in enumerate(records) if r.retain_accuracy >= settings.min_retain]
    clean = [i for i in learned if records[i].forget_accuracy <= settings.forget_tolerance]
    admissible = [i for i in clean if i <= bound - settings.guard]
    steps = tuple(records[i].step for i in admissible)
    if not records:
        return Choice(None, "there are no checkpoints", steps)
    if not learned:
        highest = _percent(max(r.retain_accuracy for r in records))
        required = f"at least {_percent(settings.min_retain)} is required"
        return Choice(None, f"the highest retain accuracy is {highest}; {required}", steps)
    if not clean:
        lowest = _percent(min(records[i].forget_accuracy for i in learned))
        allowed = f"at most {_percent(settings.forget_tolerance)} is allowed"
        reason = f"the lowest forget accuracy of a learned checkpoint is {lowest}; {allowed}"
        return Choice(None, reason, steps)
    if leak is not None:
        end = f"step {records[leak].step}, where the class came back"
    elif bound < len(records):
        end = f"step {records[bound].step}, where the class may be coming back"
    else:
        end = "the end of the records"
    if not admissible:
        return Choice(None, f"no clean checkpoint lies {settings.guard} or more before {end}", steps)

    smoothed = _smoothed(records[:bound], settings)  # no leaked checkpoint lends its accuracy to another
    best = max(smoothed[i] for i in admissible)
    ties = [i for i in admissible if smoothed[i] >= best - settings.min_delta - _ROUNDING]
    lowest_mass = min(records[i].forget_mass for i in ties)
    chosen = max(i for i in ties if records[i].forget_mass <= lowest_mass + settings.mass_delta)
    record = records[chosen]
    retain = f"retain {_percent(record.retain_accuracy)}"
    if record.predicted is not None:
        retain += f", predicted D_r {_percent(min(1.0, record.predicted))} of the version's"
    figures = f"{retain} (smoothed {_percent(min(1.0, smoothed[chosen]))}), {_forget_figures(record)}"
    of = f"of {len(ties)} ties for best among {len(admissible)} admissible before {end}"
    return Choice(records[chosen].step, f"{figures}; {of}", steps)


def _forget_figures(record: CheckpointRecord) -> str:
    if record.samples:
        return "forget not judged: synthetic images say nothing of single samples, only an audit does"
    return f"forget {_percent(record.forget_accuracy)}, forget mass {record.forget_mass:.4f}"


def _check_records(records: Sequence[CheckpointRecord]) -> None:
    for before, record in zip(records, records[1:], strict=False):
        if record.step <= before.step:
            raise BadInput("step of a checkpoint record", record.step, f"above the one before, {before.step}")
        for name in ("retain_count", "forget_count"):
            if getattr(record, name) != getattr(before, name):
                allowed = f"{getattr(before, name)}, as at step {before.step}: one set for all checkpoints"
                raise BadInput(f"{name} at step {record.step}", getattr(record, name), allowed)
        if (record.predicted is None) != (before.predicted is None):
            allowed = "a number for all checkpoints, or None for all"
            raise BadInput(f"predicted at step {record.step}", record.predicted, allowed)


def _armed(records: Sequence[CheckpointRecord], settings: StoppingSettings) -> int:
    """Index of the first checkpoint that is learned and clean; the number of records if none is."""
    for index, record in enumerate(records):
        learned = record.retain_accuracy >= settings.min_retain
        if learned and record.forget_accuracy <= settings.forget_tolerance:
            return index
    return len(records)


def _leak(records: Sequence[CheckpointRecord], settings: StoppingSettings) -> int | None:
    """Index at which the first confirmed leak begins."""
    row = 0
    for index in range(_armed(records, settings), len(records)):
        row = row + 1 if records[index].forget_accuracy >= settings.leak else 0
        if row == settings.confirm:
            return index - row + 1
    return None


def _trailing_leaks(records: Sequence[CheckpointRecord], settings: StoppingSettings) -> int:
    """How many records at the end may be a leak that is not confirmed yet."""
    row = 0
    for record in records[_armed(records, settings) :]:
        row = row + 1 if record.forget_accuracy >= settings.leak else 0
    return row


def _smoothed(records: Sequence[CheckpointRecord], settings: StoppingSettings) -> list[float]:
    """Centred median of the scores.

    The lower middle at the ends, so that a lucky first or last checkpoint does not win either.
    """
    scores = [r.score for r in records]
    half = settings.smooth // 2
    return [median_low(scores[max(0, i - half) : i + half + 1]) for i in range(len(scores))]


def _stalled(records: Sequence[CheckpointRecord], settings: StoppingSettings) -> int | None:
    """How many records had been seen when patience ran out.

    Rests on those smoothed scores alone that no later record can change.
    """
    if settings.patience is None:
        return None
    half = settings.smooth // 2
    smoothed = _smoothed(records, settings)
    best: float | None = None
    waited = 0
    for index in range(len(records) - half):
        if best is None:
            if records[index].retain_accuracy >= settings.min_retain:
                best = smoothed[index]
        elif smoothed[index] > best + settings.min_delta + _ROUNDING:
            best, waited = smoothed[index], 0
        else:
            waited += 1
            if waited == settings.patience:
                return index + half + 1
    return None


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
