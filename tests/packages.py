"""Which file may import the packages of which extra."""

from __future__ import annotations

EXTRAS_OF = {
    "benchmarks/": {"dev", "images", "ray", "report", "s3"},
    "rayunlearn/data/code.py": {"images"},
    "rayunlearn/data/geometry.py": {"images"},
    "rayunlearn/data/pixels.py": {"images"},
    "rayunlearn/data/samples.py": {"images"},
    "rayunlearn/data/torchvision_layouts.py": {"images"},
    "rayunlearn/evidence/": {"evidence"},
    "papers/": {"bayes", "dev", "ray", "report"},
    "rayunlearn/auditing/": {"ray"},
    "rayunlearn/execution/": {"ray"},
    "rayunlearn/http/": {"http"},
    "rayunlearn/reports/": {"report"},
    "rayunlearn/serving/": {"ray"},
    "rayunlearn/storage/s3.py": {"s3"},
    "rayunlearn/tuning/": {"ray"},
}
"""Start of a path -> the extras whose packages such a file may import besides the dependencies."""

DISTRIBUTION = {
    "PIL": "pillow", "annotated_types": "annotated-types", "rfc3161_client": "rfc3161-client",
    "prometheus_client": "prometheus-client", "python_multipart": "python-multipart",
    "sklearn": "scikit-learn", "yaml": "pyyaml",
}  # fmt: skip
"""Import name -> distribution name, where they differ."""


def extras_of(path: str) -> set[str]:
    """The extras whose packages a file may import; the longest start that fits counts."""
    starts = [start for start in EXTRAS_OF if path.startswith(start)]
    return EXTRAS_OF[max(starts, key=len)] if starts else set()
