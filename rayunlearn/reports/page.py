"""What the HTML pages share: templates that need nothing but themselves, and pictures within the page."""

from __future__ import annotations

import base64
import json
from typing import Any

import jinja2
from matplotlib.figure import Figure as Canvas

from rayunlearn.reports.plot_style import FORGET_COLOUR, RETAIN_COLOUR, saved


def rendered(template: str, **values: Any) -> str:
    """A template of this package as HTML text; whatever it is given is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rayunlearn.reports", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"retain_colour": RETAIN_COLOUR, "forget_colour": FORGET_COLOUR}
    return environment.get_template(template).render(values)


def picture(canvas: Canvas) -> str:
    """A plot as an SVG data URI."""
    return data_uri(saved(canvas, "svg"), "image/svg+xml")


def data_uri(data: bytes, kind: str) -> str:
    """A file as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def pretty(text: str) -> str:
    """JSON with line breaks; other text as it is."""
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except ValueError:
        return text
