"""The report of a sweep: one HTML file that needs nothing else, made from the ledger's rows alone.

The same sweep, rows and facts give the same bytes: no clock is read and nothing is drawn at random.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rayunlearn.errors import BadInput, nearest
from rayunlearn.ledger.sweeps import SweepView, TrialView, score_words
from rayunlearn.reports import wording
from rayunlearn.reports.page import pretty, rendered
from rayunlearn.reports.sweep_plots import curves_plot, front_plot, real_plot, score_panels
from rayunlearn.reports.wording import ABSENT, percent, plain
from rayunlearn.scheduling.objective import Correlation, TrialResult, regret, spearman
from rayunlearn.scheduling.space import Value, as_text

Real = Mapping[str, tuple[float, float]]
"""Trial -> accuracy on real test data of the classes to keep, and of those to forget; shares."""

SAMPLERS = {
    "random": "points drawn at random",
    "grid": "every point of a grid",
    "optuna": "points proposed by Optuna (TPE)",
}
SCHEDULERS = {
    "asha": "ASHA: of those at a rung the best go on",
    "median": "median stopping: ended when below the median of the others",
    "none": "none: every trial goes to its end",
}

def write_sweep_report(
    sweep: SweepView,
    checkpoints: Sequence[Mapping[str, Any]],
    own: Mapping[str, Value],
    facts: Mapping[str, str],
    real: Real | None = None,
) -> str:
    """The report as HTML text.

    Args:
        sweep: as the ledger has it.
        checkpoints: its rows of the ledger's table of that name.
        own: the recipe's own values of the searched settings, dotted path -> value.
        facts: name -> value of what else is to be known: hardware, versions, seed, storage.
        real: what was measured on real data when the search was over, of whatever trials; None leaves all
            that is said of it out.

    Raises:
        BadInput: a real figure of a trial that is not of the sweep.
    """
    known = {trial.trial for trial in sweep.trials}
    for trial in real or ():
        if trial not in known:
            raise BadInput("trial with real figures", trial, nearest(trial, known))
    words = score_words(sweep)
    best = sweep.best()
    rows = sorted(checkpoints, key=lambda row: (row["trial"], row["step"]))
    return rendered(
        "sweep_report.html.jinja",
        sweep=sweep,
        words=words,
        said=_said(sweep),
        winner=best and best.result and _winner(best.trial, best.result, words),
        searched=_searched(sweep, words),
        settings=[
            {
                "key": key,
                "short": key.rsplit(".", 1)[-1],
                "space": sweep.space[key],
                "own": _value(own[key]) if key in own else ABSENT,
                "winner": _value(best.settings[key]) if best else ABSENT,
            }
            for key in sorted(sweep.space)
        ],
        panels=score_panels(sweep, own, words),
        panels_said=_panels_said(sweep),
        front=front_plot(sweep, rows, words) if rows else None,
        checkpoints=len(rows),
        curves=_curves(sweep, rows, words),
        real=_real(sweep, real, words) if real else None,
        trials=[_trial(sweep, trial, real or {}) for trial in _ranked(sweep)],
        glossary=_glossary(words),
        config=pretty(sweep.config),
        facts=dict(facts),
    )


def _ranked(sweep: SweepView) -> list[TrialView]:
    """The best first; those that never came to a checkpoint last."""

    def rank(trial: TrialView) -> tuple[float, float, str]:
        if trial.result is None:
            return math.inf, math.inf, trial.trial
        return -trial.result.score, trial.result.step or math.inf, trial.trial

    return sorted(sweep.trials, key=rank)


def _admissible(sweep: SweepView) -> dict[str, float]:
    """Trial -> score, of those that can win."""
    return {t.trial: t.result.score for t in sweep.trials if t.result is not None and t.result.admissible}


def _said(sweep: SweepView) -> str:
    """The page's first sentence: how many trials of what, and what became of them."""
    count = len(sweep.trials)
    ends = Counter(trial.status for trial in sweep.trials)
    parts = [
        f"{len(_admissible(sweep))} admissible",
        f"{ends['stopped']} stopped early",
        f"{ends['failed']} failed",
        *([f"{ends['running']} not ended"] if ends["running"] else []),
    ]
    of = f"{count} trial{'' if count == 1 else 's'} of {sweep.method} on {sweep.recipe}"
    said = f"{of}, each to forget {_asked(sweep)}: {', '.join(parts)}"
    return said + (f"; {wording.seconds(sweep.seconds)} in all." if sweep.seconds is not None else ".")


def _asked(sweep: SweepView) -> str:
    request = sweep.request
    said = wording.asked(request["kind"], request["target"], request["whole_classes"])
    if request["kind"] == "classes":
        return f"class{'' if len(request['target']) == 1 else 'es'} {said}"
    return said


def _winner(trial: str, result: TrialResult, words: Mapping[str, str]) -> dict[str, Any]:
    """The best trial's scores on either set, and what their difference means."""
    second, gap = result.second, result.gap
    return {
        "trial": trial,
        "score": percent(result.score),
        "second": None if second is None else percent(second.retain_accuracy),
        "counts": None if second is None else f"{second.retain_correct} of {second.retain_count} images",
        "gap": "It was not measured on a second set: a search can overfit its own."
        if second is None or gap is None
        else _gap(gap, second.retain_count, words),
    }


def _gap(gap: float, count: int, words: Mapping[str, str]) -> str:
    """What the difference between the two sets says."""
    image = f"one image of the second set is worth {100 / count:.1f}"
    if gap <= 0:
        return (
            f"A search can overfit its own {words['set']}; here the second is no lower, so nothing points to "
            f"that ({image} points)."
        )
    return (
        f"The second is lower by {100 * gap:.1f} points ({image}). A search can overfit its own "
        f"{words['set']}: of many trials it takes the one that this set happens to favour. The second figure "
        "is the one to go by."
    )


def _searched(sweep: SweepView, words: Mapping[str, str]) -> list[tuple[str, str]]:
    stopping = json.loads(sweep.config)["stopping"]
    return [
        ("recipe", sweep.recipe),
        ("method", sweep.method),
        ("to forget", _asked(sweep)),
        ("sampler", SAMPLERS.get(sweep.sampler, sweep.sampler)),
        ("scheduler", SCHEDULERS.get(sweep.scheduler, sweep.scheduler)),
        ("budget", sweep.budget),
        ("took", wording.seconds(sweep.seconds)),
        (
            "admissible",
            f"{words['retain']} at least {100 * stopping['min_retain']:g} %, "
            f"{words['forget']} at most {100 * stopping['forget_tolerance']:g} %",
        ),
    ]


def _panels_said(sweep: SweepView) -> str:
    if not _admissible(sweep):
        return (
            "No trial is admissible: shown is how far each is from that, the nearest at the top. In the band "
            "below, crosses: trials that ended without any checkpoint. Dashed: the recipe's own value."
        )
    return (
        "Dots: admissible trials, the winner ringed. In the band below, circles: trials without an "
        "admissible checkpoint; crosses: those without any. Dashed: the recipe's own value."
    )


def _curves(
    sweep: SweepView, rows: Sequence[Mapping[str, Any]], words: Mapping[str, str]
) -> dict[str, str] | None:
    """Those of the winner, else of the trial that came nearest; None where none has a checkpoint."""
    shown = sweep.best() or next(iter(_ranked(sweep)), None)
    if shown is None or shown.result is None:
        return None
    own, step = [row for row in rows if row["trial"] == shown.trial], shown.result.step
    if not own:
        return None
    name = "The nearest to admissible" if step is None else "The best so far"
    name = "The winner" if shown.trial == sweep.winner else name
    said = f"{name}, {shown.trial}, on the search's set. Forget mass: mean probability of what is to go."
    return {"trial": shown.trial, "said": said, "uri": curves_plot(own, step, words)}


def _real(sweep: SweepView, real: Real, words: Mapping[str, str]) -> dict[str, Any]:
    """How the search's scores agree with real ones, in words and as a plot."""
    scores = {trial: score for trial, score in _admissible(sweep).items() if trial in real}
    retains = {trial: real[trial][0] for trial in scores}
    said = [_agreement(spearman(scores, retains))]
    if sweep.winner in scores:
        keeps, knows = real[sweep.winner]
        best = max(retains, key=lambda trial: (retains[trial], trial == sweep.winner))
        missed = 100 * regret(sweep.winner, retains)
        said.append(
            f"On real test data the winner gets {percent(keeps)} of the classes to keep right and "
            f"{percent(knows)} of those to forget. "
            + (
                "No other of these trials keeps more: the regret is 0 points."
                if best == sweep.winner
                else f"The most is {percent(retains[best])}, by {best}: a regret of {missed:.1f} points."
            )
        )
    know = sum(real[trial][1] > 0 for trial in scores)
    if know:
        said.append(f"{know} of the {len(scores)} still get something right of what was to be forgotten.")
    return {
        "said": " ".join(said),
        "count": len(scores),
        "uri": real_plot(scores, real, sweep.winner, words) if scores else None,
    }


def _agreement(found: Correlation) -> str:
    trials = f"{found.n} admissible trial{'' if found.n == 1 else 's'} with real figures"
    if found.rho is None:
        return f"There is no rank correlation over {trials}: too few, or all alike."
    said = f"Over {trials} Spearman's rank correlation of the search's score with real retain accuracy is "
    if found.low is None or found.high is None:
        return f"{said}{found.rho:.2f}; no interval can be given."
    return f"{said}{found.rho:.2f}, with a 95 % interval from {found.low:.2f} to {found.high:.2f}."


def _trial(sweep: SweepView, trial: TrialView, real: Real) -> dict[str, Any]:
    """A row of the table of all trials."""
    result = trial.result
    keeps, knows = real.get(trial.trial, (None, None))
    return {
        "trial": trial.trial,
        "won": trial.trial == sweep.winner,
        "settings": [_value(trial.settings[key]) for key in sorted(sweep.space)],
        "score": percent(result.score if result and result.admissible else None),
        "second": percent(result.second_score if result else None),
        "step": ABSENT if result is None or result.step is None else str(result.step),
        "cycles": ABSENT if result is None else str(result.cycles),
        "real_retain": percent(keeps),
        "real_forget": percent(knows),
        "seconds": wording.seconds(trial.seconds),
        "status": trial.status,
        "why": _why(trial),
    }


def _why(trial: TrialView) -> str:
    """Why a trial failed, in its traceback's last line, or has no admissible checkpoint."""
    if trial.status == "failed":
        return plain((trial.failure or "").strip().rpartition("\n")[2])
    if trial.result is not None and not trial.result.admissible:
        return plain(trial.result.reason)
    return ""


def _value(value: Value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else as_text(value)


_AGREEMENT = (
    "agreement",
    "of samples that are not like the examples, the share that is answered as by the version before",
)


def _glossary(words: Mapping[str, str]) -> list[tuple[str, str]]:
    return [
        *([_AGREEMENT] if words["retain"] == "agreement" else []),
        (
            "score",
            f"{words['retain']} of the checkpoint that the stopping rule chooses of a trial, on the "
            f"{words['set']} that the search goes by: the stop is searched together with the settings",
        ),
        (
            "admissible",
            "a trial with a checkpoint that has learned, has forgotten, and lies before what was to be "
            "forgotten comes back; no other can win",
        ),
        (
            "second set",
            "made as the first one but apart from it, and looked at when the search was over: what it says "
            "of the winner no decision has touched",
        ),
        (
            "stopped",
            "ended early, by the scheduler or because the budget was spent; what it had reached counts",
        ),
    ]
