"""The words and number formats that the terminal and the report share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from rayunlearn.reports.approximated import ClassYield, Threshold
from rayunlearn.reports.summary import Figure, RequestSummary

CLASSES_SHOWN = 20
"""Classes that are named; of more it is told how many."""

ABSENT = "–"
"""Stands for a figure that was not measured."""

SUBJECT_NAMES: dict[str, str] = {
    "unlearned": "unlearned",
    "gold": "gold",
    "original": "original",
    "mask_logit": "masked logit",
    "delete_head_row": "deleted row",
    "gaussian_head": "Gaussian head",
}
"""Audited models, in the order in which they are shown."""

SUBJECT_MEANINGS: dict[str, str] = {
    "unlearned": "what the request published",
    "gold": "retrained from scratch on what is retained: what forgetting should look like",
    "original": "before anything was forgotten",
    "mask_logit": "baseline: the original with the forgotten logits masked",
    "delete_head_row": "baseline: the original without the forgotten rows of its head",
    "gaussian_head": "baseline: the original with its head retrained on Gaussian embeddings",
}

PHASE_NAMES: dict[str, str] = {
    "synthesise": "synthetic images",
    "generator": "generator training",
    "sample": "samples of D'",
    "filter": "likeness to examples",
    "layers": "probe of the layers",
    "gate": "synthetic gate",
}
"""Phases of a run whose name in the ledger says too little; others are shown as they are."""

GLOSSARY: tuple[tuple[str, str], ...] = (
    ("D_r", "real test images of the classes to keep; the accuracy on them should stay near gold's"),
    (
        "D_f",
        "real test images of every class forgotten so far; the accuracy on them should be 0 %. Of a request "
        "that names samples, or whose examples are of mislabelled ones: these samples; the accuracy on them, "
        "by the labels of the training, should be near gold's",
    ),
    (
        "gold",
        "a model retrained from scratch without what was forgotten; the yardstick, which a "
        "deployment without training data does not have",
    ),
    (
        "probe",
        "share of D_f that a linear classifier, fitted on {probed_with}, reads off the model's "
        "frozen features; nearer to gold's is better",
    ),
    (
        "AIN",
        "anamnesis index: batches needed to relearn D_f over the batches gold needs; nearer to 1 is "
        "better, near 0 the classes come straight back, far above 1 the model is damaged; < and > are "
        "bounds, where a model was not back in time",
    ),
    (
        "regret",
        "points of D_r accuracy lost by stopping on synthetic data instead of where real data would "
        "have stopped",
    ),
)
"""What the columns mean, for someone who sees them for the first time; in braces what settings decide."""


OF_EXAMPLES = (
    "D'",
    "of a request by examples: images of a generator that was trained on the version alone; a filter drops "
    "the bad ones. What is like the examples is relearned without the labels to erase{whole_classes}; the "
    "rest keeps its labels. A held-out part of the images and the examples decide",
)
_WHOLE_BY = {
    "every": ", where whole classes go all of them are",
    "label": ", where whole classes go also what gets one of these labels",
}
"""What else is relearned so, by `few_shot.whole_by`."""
GATES_CHECK = (
    "gate's check",
    "of a request by examples, on the held-out part of D'. Under D_r: the share that gets the same label as "
    "from the version before (agreement, not accuracy). Under D_f: the share of images like the examples "
    "that still gets a label to erase",
)

CHECK_NAMES: dict[str, str] = {
    "retain_accuracy": "not like the examples: answered as by the version before",
    "forget_accuracy": "like the examples: still a label to erase",
}
"""What the gate's measures are of a request by examples."""

GATE_NAMES: dict[str, str] = {
    "predicted_d_r": "predicted D_r, relative to D_r of the version before",
    "predicted_d_r_low": "predicted D_r: low end of the range that holds nine of ten",
    "predicted_d_r_high": "predicted D_r: high end of that range",
    "probe_recall": "probe of the features: recall of the class to forget",
    "retain_probe_recall": "probe of the features: recall of the other classes",
    "parent_probe_recall": "the same of the version before: the class to forget",
    "parent_retain_probe_recall": "the same of the version before: the other classes",
    "stand_in_probe_recall": "the same of models that never saw the class: that class",
    "stand_in_retain_probe_recall": "the same of models that never saw the class: the others",
}
"""What the gate's measures are of a request by classes; all are of images that no model learned from."""

MISLABELLED_NAMES: dict[str, str] = {
    "mislabelled_accuracy": "right label",
    "mislabelled_taught": "wrong label, as taught",
}
"""Figures on the training samples that were mislabelled, as shares of them."""


def glossary(summaries: Iterable[RequestSummary]) -> list[tuple[str, str]]:
    """The words to explain where these requests are shown."""
    by_examples = [s for s in summaries if s.kind == "examples"]
    unaudited = any(s.synthetic_check and not s.figures for s in by_examples)
    rules = {s.threshold.whole_by for s in by_examples if s.whole_classes and s.threshold}
    decided = {
        "probed_with": _probed_with(summaries),
        "whole_classes": "".join(said for rule, said in _WHOLE_BY.items() if rule in rules),
    }
    terms = [*GLOSSARY, *([OF_EXAMPLES] if by_examples else ()), *([GATES_CHECK] if unaudited else ())]
    return [(term, meaning.format(**decided)) for term, meaning in terms]


def _probed_with(summaries: Iterable[RequestSummary]) -> str:
    """The images that the audits' probes were fitted on, where one setting says it of all."""
    figures = [s.figure("unlearned", "probe_forget_recall") for s in summaries]
    found = {f.parameters["train_per_class"] for f in figures if f and "train_per_class" in f.parameters}
    if len(found) != 1:
        return "real training images"
    (number,) = found
    return "all real training images" if number is None else of_each_class(number, "real training image")


def of_each_class(number: int, thing: str) -> str:
    """So many of each class.

    >>> of_each_class(1, "image"), of_each_class(20, "image")
    ('1 image of each class', '20 images of each class')
    """
    return f"{number} {thing}{'' if number == 1 else 's'} of each class"


def baselines(forgotten: Iterable[Figure]) -> str:
    """What hiding achieves, from the baselines' accuracies on D_f.

    >>> baselines([Figure(value=0.0), Figure(value=0.032)]).split(" without")[0]
    'The baselines bring D_f to 3.2 % at most'
    >>> baselines([]).split(" without")[0]
    'D_f can be brought to 0 %'
    """
    values = [figure.value for figure in forgotten if figure.value is not None]
    without = "without forgetting: the class is still in the features."
    if not values:
        return f"D_f can be brought to 0 % {without}"
    reached = "0 %" if max(values) == 0 else f"{percent(max(values))} at most"
    return f"The baselines bring D_f to {reached} {without}"


def percent(figure: Figure | float | None) -> str:
    """A share as a percentage.

    >>> percent(0.9725), percent(None)
    ('97.2 %', '–')
    """
    value = figure.value if isinstance(figure, Figure) else figure
    return ABSENT if value is None else f"{100 * value:.1f} %"


def index(figure: Figure | None) -> str:
    """An anamnesis index, or the bound that is known of it; one that says nothing has a question mark.

    >>> index(Figure(value=0.914)), index(Figure(value=3.206, censored=True))
    ('0.91', '> 3.20')
    >>> index(Figure(value=None, censored=True, parameters={"upper_bound": 0.0375}))
    '< 0.04'
    """
    if figure is None:
        return ABSENT
    if figure.value is None:
        return ABSENT if figure.upper_bound is None else below(figure.upper_bound)
    mark = "" if figure.parameters.get("informative", True) else "?"
    return (above(figure.value) if figure.censored else f"{figure.value:.2f}") + mark


def below(bound: float, decimals: int = 2) -> str:
    """A figure that is known to be below a bound, which is rounded up so that this stays true.

    >>> below(0.0375), below(0.07)
    ('< 0.04', '< 0.07')
    """
    unit = 10.0**decimals
    return f"< {math.ceil(bound * unit - 1e-9) / unit:.{decimals}f}"


def above(bound: float, decimals: int = 2) -> str:
    """A figure that is known to be above a bound, which is rounded down.

    >>> above(9.758), above(400.0, 0)
    ('> 9.75', '> 400')
    """
    unit = 10.0**decimals
    return f"> {math.floor(bound * unit + 1e-9) / unit:.{decimals}f}"


def relearn_steps(figure: Figure | None) -> str:
    """Steps to relearn, or the cap that they went beyond."""
    if figure is None:
        return ABSENT
    if figure.value is None:
        cap = figure.parameters.get("max_steps")
        return ABSENT if cap is None else f"> {cap}"
    return f"{figure.value:.0f}"


def points(share: float | None) -> str:
    """A difference of shares in percentage points.

    >>> points(0.0045), points(-0.0045), points(0.0)
    ('0.4 pt', '-0.4 pt', '0.0 pt')
    """
    return ABSENT if share is None else f"{100 * share:.1f} pt"


def seconds(value: float | None) -> str:
    """A duration.

    >>> seconds(3.14159), seconds(125.4)
    ('3.1 s', '125 s')
    """
    if value is None:
        return ABSENT
    return f"{value:.1f} s" if value < 99.95 else f"{value:.0f} s"


def classes(ids: Iterable[int | str]) -> str:
    """Class ids or names in a row; an empty row is shown as absent."""
    return ", ".join(plain(str(thing)) for thing in ids) or ABSENT


def asked(kind: str, target: Sequence[int | str], whole_classes: bool = False) -> str:
    """What a request names: class ids in a row, single samples by their number, labels to erase.

    >>> asked("classes", [0, 2]), asked("samples", [17]), asked("samples", range(300))
    ('0, 2', '1 sample', '300 samples')
    >>> asked("examples", [9], True), asked("examples", [9]), asked("examples", [2, 3])
    ('9, by examples', 'label 9 of what is like the examples', 'labels 2, 3 of what is like the examples')
    """
    if kind == "classes" or not target:
        return classes(target)
    if kind == "samples":
        return f"{len(target)} sample" + ("" if len(target) == 1 else "s")
    if whole_classes:
        return f"{classes(target)}, by examples"
    return f"label{'' if len(target) == 1 else 's'} {classes(target)} of what is like the examples"


def gone(of_classes: Sequence[int], samples: Sequence[int]) -> str:
    """All that a version has forgotten.

    >>> gone([0, 2], []), gone([0], [17, 254]), gone([], [17])
    ('0, 2', '0 and 2 samples', '1 sample')
    """
    parts = [asked("classes", of_classes)] if of_classes or not samples else []
    return " and ".join([*parts, *([asked("samples", samples)] if samples else [])])


def phase_name(phase: str) -> str:
    """What a phase is called where it is shown."""
    return PHASE_NAMES.get(phase, phase)


def numbered(class_names: Sequence[str] | None) -> str:
    """The names of classes with their numbers; nothing where there are none, or they are the numbers.

    >>> numbered(("cat", "dog")), numbered(("0", "1")), numbered(None)
    ('0 cat, 1 dog', '', '')
    """
    named = list(enumerate(class_names or ()))
    if all(name == str(number) for number, name in named):
        return ""
    more = f" and {len(named) - CLASSES_SHOWN} more" if len(named) > CLASSES_SHOWN else ""
    return ", ".join(f"{number} {name}" for number, name in named[:CLASSES_SHOWN]) + more


def plain(text: str) -> str:
    r"""Text without control characters: what a user's file holds must not steer a terminal.

    >>> plain("a\x1b[31mb\tc")
    'a\\x1b[31mb c'
    """
    spaced = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in spaced)


def came_back(returned: Mapping[int, float]) -> str:
    """What a reader has to know of forgotten classes that are recognised again; empty where none is.

    >>> came_back({3: 0.25, 5: 0.011})
    'came back: class 3 (25.0 % of its test images recognised), class 5 (1.1 % of its test images recognised)'
    """
    told = [f"class {c} ({100 * share:.1f} % of its test images recognised)" for c, share in returned.items()]
    return f"came back: {', '.join(told)}" if told else ""


_FALLBACKS = {
    "midrange": "halfway between the greatest and the least similarity",
    "none": "above every similarity",
}
"""Where the threshold is when it is no knee."""


def like_examples(threshold: Threshold) -> str:
    """How many samples count as like the examples, and why that was not read off a knee, if so.

    >>> told = {"value": 2.0, "selected": 4, "samples": 90, "curve": (3.0, 1.0)}
    >>> like_examples(Threshold(**told, by="knee", reason=""))
    "4 of 90 samples of D' are like the examples"
    >>> like_examples(Threshold(**told, by="none", reason="all 90 scores are equal")).split("; ")[1]
    'for want of a knee the threshold is above every similarity (all 90 scores are equal)'
    >>> like_examples(Threshold(**told, by="knee", reason="", raised=(7,), most_of_a_label=0.02))[44:]
    '(of those answered 7 the most similar 2 %, or one, alone: the class stays)'
    """
    said = f"{threshold.selected} of {threshold.samples} samples of D' are like the examples"
    if threshold.raised:
        labels = ", ".join(map(str, threshold.raised))
        said += f" (of those answered {labels} {_most_similar(threshold)} alone: the class stays)"
    if threshold.by == "knee":
        return said
    return f"{said}; for want of a knee the threshold is {_FALLBACKS[threshold.by]} ({threshold.reason})"


def _most_similar(threshold: Threshold) -> str:
    """How many of a label count whose class stays."""
    share = threshold.most_of_a_label
    if share is None:
        return "the most similar"
    return f"the most similar {100 * share:g} %, or one," if share else "the most similar one"


def fell_short(yields: Iterable[ClassYield]) -> str:
    """Classes that gave D' fewer samples than wanted; empty where none did."""
    told = [f"class {given.label} ({given.found} of {given.wanted})" for given in yields if given.short]
    return f"too few samples of {', '.join(told)}" if told else ""
