"""The report: one HTML file that needs nothing else, made from summaries alone.

The same summaries, images and facts give the same bytes: no clock is read and nothing is drawn at random.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.image import imsave
from matplotlib.ticker import MaxNLocator

from rayunlearn.errors import BadInput
from rayunlearn.reports import wording
from rayunlearn.reports.approximated import ClassYield, Threshold
from rayunlearn.reports.page import data_uri, picture, pretty, rendered
from rayunlearn.reports.plot_style import FORGET_COLOUR, INK, MUTED, RC, RETAIN_COLOUR, bare, mark_step
from rayunlearn.reports.summary import BASELINES, Figure, RequestSummary
from rayunlearn.reports.wording import SUBJECT_MEANINGS, SUBJECT_NAMES

IMAGES_PER_CLASS = 8
"""Synthetic images shown of each class."""
IMAGE_SIDE = 88
"""Least side of a shown image in pixels; the page shows it at half of that, for dense displays."""

_GAP = 6
"""Pixels between two images."""


def write_report(
    summaries: Sequence[RequestSummary],
    images: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    recipe_json: str,
    facts: Mapping[str, str],
    ledger_verified: int,
    *,
    title: str = "Unlearning report",
) -> str:
    """The report as HTML text.

    Args:
        summaries: what became of each request.
        images: request id -> synthetic images `[N, C, H, W]`, pixels in [0, 1], C of 1 or 3. Images of
            classes that the request forgot are left out, whatever is handed over.
        labels: request id -> classes of these images `[N]`.
        recipe_json: settings of the job.
        facts: name -> value of what else is to be known: hardware, versions, seed, storage.
        ledger_verified: entries of the ledger whose chain was verified.
        title: of the page.

    Raises:
        BadInput: images or labels of another shape.
    """
    return rendered(
        "report.html.jinja",
        title=title,
        summary=_overview(summaries),
        requests=[
            _request(number, s, images.get(s.request_id), labels.get(s.request_id))
            for number, s in enumerate(summaries, start=1)
        ],
        glossary=wording.glossary(summaries),
        baselines=wording.baselines(
            figure
            for summary in summaries
            for subject in BASELINES
            if (figure := summary.figure(subject, "forget_accuracy")) is not None
        ),
        subjects=[(SUBJECT_NAMES[name], meaning) for name, meaning in SUBJECT_MEANINGS.items()],
        audited=any(s.figures for s in summaries),
        recipe=pretty(recipe_json),
        facts=dict(facts),
        ledger_verified=ledger_verified,
    )


def _overview(summaries: Sequence[RequestSummary]) -> dict[str, Any]:
    """The page's first sentence in parts: how many requests ended how, and the last served one."""
    ends: dict[str, int] = {}
    for summary in summaries:
        ends[summary.status] = ends.get(summary.status, 0) + 1
    served = [s for s in summaries if s.status == "served"]
    last = served[-1] if served else None
    return {
        "total": len(summaries),
        "served": len(served),
        "others": [f"{count} {status}" for status, count in ends.items() if status != "served"],
        "seconds": wording.seconds(sum(s.seconds or 0.0 for s in summaries)),
        "last": last and _last(last),
    }


def _last(summary: RequestSummary) -> dict[str, Any]:
    gone = wording.gone(summary.forgotten, summary.forgotten_samples)
    behaviour = summary.kind == "examples" and not summary.target_classes
    if behaviour:
        gone = _asked(summary) if not any(summary.before) else f"{gone} and {_asked(summary)}"
    return {
        "forgotten": gone,
        "samples": summary.kind == "samples",
        "behaviour": behaviour,
        "retain": wording.percent(summary.figure("unlearned", "retain_accuracy")),
        "forget": wording.percent(summary.figure("unlearned", "forget_accuracy")),
        "gold": wording.percent(summary.figure("gold", "retain_accuracy")),
        "gold_forget": wording.percent(summary.figure("gold", "forget_accuracy")),
        "compared": "gold" in summary.figures,
        "corrected": [
            wording.percent(figure)
            for subject in ("unlearned", "gold")
            if (figure := summary.figure(subject, "mislabelled_accuracy"))
        ],
    }


def _asked(summary: RequestSummary) -> str:
    return wording.asked(summary.kind, summary.target, summary.whole_classes)


def _request(
    number: int, summary: RequestSummary, images: np.ndarray | None, labels: np.ndarray | None
) -> dict[str, Any]:
    """A request as the template shows it: strings, and pictures as data URIs."""
    if summary.run_id is None:
        images = labels = None  # those of the request whose id this rejected line took
    retained = frozenset[int]()
    if images is not None and labels is not None:
        retained = frozenset(int(c) for c in np.unique(labels))
        retained -= {*summary.target_classes, *summary.forgotten}
    return {
        "id": wording.plain(summary.request_id),
        "anchor": f"request-{number}",
        "lineage": summary.lineage,
        "named": bool(summary.target),
        "target": _asked(summary),
        "by_examples": summary.kind == "examples",
        "so_far": wording.gone(summary.forgotten, summary.forgotten_samples) if any(summary.before) else "",
        "status": summary.status,
        "reason": wording.plain(summary.reason) if summary.reason else None,
        "returned": wording.came_back(summary.returned),
        "audited": bool(summary.figures),
        "cells": _cells(summary),
        "measured": _measured(summary),
        "relearned": any("relearn_steps" in measures for measures in summary.figures.values()),
        "subjects": _subjects(summary),
        "notes": _notes(summary),
        "by_class": [
            {"class": class_id, "value": wording.percent(figure), "counts": figure.counts}
            for class_id, figure in sorted(summary.forget_by_class.get("unlearned", {}).items())
        ],
        "check": [
            {"measure": _check_name(summary, measure), **_cell(wording.percent(figure), figure)}
            for measure, figure in summary.synthetic_check.items()
        ],
        "relapse": ", ".join(wording.percent(value) for value in summary.relapse.values()),
        "relapse_steps": max(summary.relapse, default=0),
        "stops": _stops(summary),
        "oracle": summary.oracle_step,
        "phases": [
            {"name": wording.phase_name(name), "seconds": wording.seconds(value)}
            for name, value in summary.phase_seconds.items()
        ],
        "seconds": wording.seconds(summary.seconds),
        "identity": _identity(summary),
        "real": bool(summary.real),
        "curves": _curves(summary) if summary.synthetic else None,
        "likeness": _likeness(summary.threshold) if summary.threshold else None,
        "yields": [_yield(given) for given in summary.yields],
        "budget": max((given.budget for given in summary.yields), default=0),
        "images": [] if images is None or labels is None else _strips(images, labels, retained),
    }


def _check_name(summary: RequestSummary, measure: str) -> str:
    names = wording.CHECK_NAMES if summary.kind == "examples" else wording.GATE_NAMES
    return names.get(measure, measure.replace("_", " "))


def _yield(given: ClassYield) -> dict[str, Any]:
    """What a class gave to D'; what its samples are predicted as is told where it is another class."""
    others = {label: count for label, count in given.predicted.items() if label != given.label}
    return {
        "class": given.label,
        "short": given.short,
        "found": f"{given.found}/{given.wanted}",
        "counts": [given.judged, given.entropy_failed, given.consistency_failed],
        "others": ", ".join(f"{count} as {label}" for label, count in others.items()) or "none",
    }


def _cell(text: str, figure: Figure | None = None, note: str = "", kind: str = "") -> dict[str, str]:
    return {"text": text, "counts": figure.counts if figure else "", "note": note, "kind": kind}


def _cells(summary: RequestSummary) -> list[dict[str, str]]:
    """The request's row in the table at the top, from D_r to the seconds."""

    def share(subject: str, measure: str, note: str = "", kind: str = "") -> dict[str, str]:
        figure = summary.figure(subject, measure)
        return _cell(wording.percent(figure), figure, note, kind)

    def ain(subject: str, note: str = "", kind: str = "") -> dict[str, str]:
        return _cell(wording.index(summary.figure(subject, "anamnesis_index")), None, note, kind)

    def named(measure: str) -> tuple[str, str]:
        subject = summary.best_baseline(measure) or ""
        all_of_them = [summary.figure(baseline, measure) for baseline in BASELINES]
        alike = len({(figure.value, figure.upper_bound) for figure in all_of_them if figure}) == 1
        return subject, "all three" if alike and all(all_of_them) else SUBJECT_NAMES.get(subject, "")

    probe, probe_name = named("probe_forget_recall")
    relearning, relearning_name = named("anamnesis_index")
    stop = summary.stops.get("synthetic")
    return [
        share("unlearned", "retain_accuracy", kind="ours"),
        share("gold", "retain_accuracy"),
        share("original", "retain_accuracy"),
        share("unlearned", "forget_accuracy", kind="ours"),
        share("unlearned", "probe_forget_recall", kind="ours"),
        share("gold", "probe_forget_recall"),
        share(probe, "probe_forget_recall", note=probe_name),
        ain("unlearned", kind="ours"),
        ain(relearning, note=relearning_name),
        _cell(wording.ABSENT if summary.chosen_step is None else str(summary.chosen_step), kind="group"),
        _cell(wording.points(summary.regret), stop.regret if stop else None),
        _cell(wording.seconds(summary.seconds)),
    ]


_BARS = (
    ("Accuracy on D_r", "retain_accuracy", "retain"),
    ("Accuracy on D_f", "forget_accuracy", "forget"),
    ("Mislabelled: right label (line: gold)", "mislabelled_accuracy", "gold"),
    ("Mislabelled: wrong label, as taught (line: gold)", "mislabelled_taught", "gold"),
    ("Probe on D_f (line: gold)", "probe_forget_recall", "gold"),
    ("Probe on D_r", "probe_retain_recall", "retain"),
)
"""Heading, measure and kind of the bars that compare models; nearest to gold is best where a line says so."""


def _measured(summary: RequestSummary) -> list[tuple[str, str, str]]:
    """Those of the bars for which some model has a figure."""
    return [bar for bar in _BARS if any(bar[1] in measures for measures in summary.figures.values())]


def _subjects(summary: RequestSummary) -> list[dict[str, Any]]:
    """The audited models, for the table with bars; shares also as lengths in percent."""
    rows = []
    for subject, name in SUBJECT_NAMES.items():
        if subject not in summary.figures:
            continue
        bars = []
        for _, measure, kind in _measured(summary):
            figure = summary.figure(subject, measure)
            bar: dict[str, Any] = dict(_cell(wording.percent(figure), figure, kind=kind))
            bar["length"] = _length(figure)
            bar["mark"] = _length(summary.figure("gold", measure)) if kind == "gold" else None
            bars.append(bar)
        rows.append(
            {
                "subject": subject,
                "name": name,
                "meaning": SUBJECT_MEANINGS[subject],
                "bars": bars,
                "steps": wording.relearn_steps(summary.figure(subject, "relearn_steps")),
                "ain": wording.index(summary.figure(subject, "anamnesis_index")),
            }
        )
    return rows


def _length(figure: Figure | None) -> str | None:
    """A share as a CSS length, kept within its cell."""
    if figure is None or figure.value is None:
        return None
    return f"{100 * min(max(figure.value, 0.0), 1.0):.2f}%"


def _notes(summary: RequestSummary) -> list[str]:
    """How probe and relearning were set, what the audit says against an index, and what it left out."""
    notes = []
    for name, measure in (("Probe", "probe_forget_recall"), ("Relearning", "anamnesis_index")):
        figure = summary.figure("unlearned", measure)
        if figure and (settings := {k: v for k, v in figure.parameters.items() if k not in _SAID}):
            notes.append(f"{name}: " + ", ".join(f"{k} {json.dumps(v)}" for k, v in settings.items()) + ".")
    for subject, name in SUBJECT_NAMES.items():
        figure = summary.figure(subject, "anamnesis_index")
        if figure and figure.parameters.get("note"):
            notes.append(f"AIN of {name}: {figure.parameters['note']}.")
    notes += [f"Left out, {measure}: {why}." for measure, why in summary.left_out.items()]
    return notes


_SAID = {"note", "informative", "upper_bound"}
"""Parameters of an index that are no settings."""


def _stops(summary: RequestSummary) -> list[dict[str, Any]]:
    names = {"synthetic": "synthetic (chosen)", "last": "last checkpoint", "fixed": "fixed cycle"}
    return [
        {
            "rule": names.get(rule, rule),
            "step": stop.step,
            "regret": wording.points(stop.regret.value),
            "forget_correct": stop.forget_correct,
        }
        for rule, stop in summary.stops.items()
    ]


def _identity(summary: RequestSummary) -> list[tuple[str, str, str]]:
    """(name, short form, full form) of the ids that the record can be found by, and of what was kept."""
    ids = [("run", summary.run_id), ("parent version", summary.parent), ("published", summary.version)]
    named = [(name, value[:12], value) for name, value in ids if value]
    if summary.kept_layers is None:
        return named
    kept = "{} of {}".format(*summary.kept_layers)
    return [*named, ("layers kept", kept, f"the first {kept} layers keep the parent version's weights")]


def _curves(summary: RequestSummary) -> str:
    """Accuracy over cycles as an SVG data URI: synthetic solid, real dashed; the stops as vertical lines.

    Of single samples there is no synthetic image, and no curve. Of a request by examples the synthetic
    curves are shares of the held-out D'.
    """
    parts = [("retain", RETAIN_COLOUR)]
    if summary.kind != "samples":
        parts.append(("forget", FORGET_COLOUR))
    by_examples = summary.kind == "examples"
    names = {
        "retain, synthetic": "answered as before",
        "forget, synthetic": "like the examples: label to erase",
    }
    with matplotlib.rc_context(RC):
        canvas = Canvas(figsize=(6.6, 3.9), layout="constrained")
        axes = canvas.subplots()
        for part, colour in parts:
            for data, points, style in (
                ("synthetic", summary.synthetic, "-"),
                ("real test", summary.real, "--"),
            ):
                name = f"{part}, {data}"
                if points:
                    axes.plot(
                        list(points),
                        [100 * getattr(point, part) for point in points.values()],
                        style,
                        color=colour,
                        linewidth=1.9 if style == "-" else 1.5,
                        marker="o" if len(points) == 1 else None,
                        label=names.get(name, name) if by_examples else name,
                        clip_on=False,
                    )
        _mark_stops(axes, summary)
        axes.set(ylim=(0, 100), xlabel="cycle", ylabel="share, %" if by_examples else "accuracy, %")
        axes.margins(x=0.02)
        bare(axes)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        columns = 2 if by_examples else 4
        canvas.legend(loc="outside upper left", ncols=columns, frameon=False, fontsize=9, handlelength=1.9)
        return picture(canvas)


def _likeness(threshold: Threshold) -> dict[str, str]:
    """The similarity of the samples of D' to the examples, sorted, and its threshold (Fig. 4a)."""
    similarity = np.array(threshold.curve)
    samples = np.linspace(0, threshold.samples, len(similarity))
    like = similarity >= threshold.value
    with matplotlib.rc_context(RC):
        canvas = Canvas(figsize=(6.6, 3.1), layout="constrained")
        axes = canvas.subplots()
        axes.plot(samples, similarity, color=RETAIN_COLOUR, linewidth=1.9)
        axes.plot(samples[like], similarity[like], color=FORGET_COLOUR, linewidth=2.6)
        axes.axhline(threshold.value, color=INK, linewidth=1.2, linestyle="--")
        axes.annotate(
            f"threshold {threshold.value:.3g}, {threshold.selected} count as like the examples",
            (threshold.samples, threshold.value), xytext=(0, 5), textcoords="offset points",
            ha="right", va="bottom", fontsize=9,
        )  # fmt: skip
        axes.set(xlabel="samples of D', the most similar first", ylabel="similarity to the examples")
        axes.margins(x=0.01)
        bare(axes)
        curve = picture(canvas)
    return {"curve": curve, "said": wording.like_examples(threshold)}


def _mark_stops(axes: Axes, summary: RequestSummary) -> None:
    """Vertical lines at the chosen and the oracle's stop; labels at half height, where curves rarely are."""
    chosen, oracle = summary.chosen_step, summary.oracle_step
    if chosen is not None and chosen == oracle:
        stops = [("chosen stop = oracle stop", chosen, INK, "-", 57)]
    else:
        stops = [
            (name, step, colour, style, height)
            for name, step, colour, style, height in (
                ("chosen stop", chosen, INK, "-", 57),
                ("oracle stop", oracle, MUTED, ":", 43),
            )
            if step is not None
        ]
    steps = [*summary.synthetic, *summary.real]
    for name, step, colour, style, height in stops:
        mark_step(axes, name, step, steps, height=height, colour=colour, style=style)


def _strips(images: np.ndarray, labels: np.ndarray, shown: Iterable[int]) -> list[dict[str, Any]]:
    """For each class a row of images as a PNG data URI, scaled up by repeating pixels."""
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise BadInput("shape of the report's images", images.shape, "[N, C, H, W] with C of 1 or 3")
    if labels.shape != images.shape[:1]:
        raise BadInput("shape of the report's labels", labels.shape, f"{images.shape[:1]}, one an image")
    height, width = images.shape[2:]
    scale = max(1, -(-IMAGE_SIDE // max(height, width)))
    strips = []
    for class_id in sorted(shown):
        found = images[labels == class_id]
        chosen = np.nan_to_num(found[:IMAGES_PER_CLASS].astype(np.float64)).clip(0.0, 1.0)
        pixels = np.rint(255 * chosen).astype(np.uint8).transpose(0, 2, 3, 1)
        if pixels.shape[3] == 1:
            pixels = pixels.repeat(3, axis=3)
        pixels = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
        gap = np.full((pixels.shape[1], _GAP, 3), 255, dtype=np.uint8)
        parts = [part for picture in pixels for part in (picture, gap)][:-1]
        file = io.BytesIO()
        imsave(file, np.concatenate(parts, axis=1), format="png")
        strips.append(
            {
                "class": class_id,
                "count": len(found),
                "shown": len(chosen),
                "width": sum(part.shape[1] for part in parts) // 2,
                "height": pixels.shape[1] // 2,
                "uri": data_uri(file.getvalue(), "image/png"),
            }
        )
    return strips
