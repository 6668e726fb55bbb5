"""Names of classes as a flag says them, or as files beside a model do."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayunlearn.cli.preprocessor_file import json_file
from rayunlearn.errors import BadInput

FLAG = "--class-names"
_PLACEHOLDER = re.compile(r"LABEL_\d+")
"""What Hugging Face calls a class that nobody has named."""


def class_names(text: str) -> list[str]:
    """The names that the flag says: with commas between, as a JSON list, or in a file.

    A file is a text with a name on each line, or JSON: a list, a mapping from name to number or back, or a
    config with `id2label` or `label_names`.

    Raises:
        BadInput: the text or the file says no names.
    """
    if text.startswith("["):
        try:
            return _listed(json.loads(text), FLAG)
        except ValueError as error:
            if isinstance(error, BadInput):
                raise
            raise BadInput(FLAG, text, f"a JSON list of texts ({error})") from error
    path = Path(text)
    if "," in text and not path.is_file():
        return [name.strip() for name in text.split(",")]
    if not path.is_file():
        raise BadInput(FLAG, text, "names with commas between, a JSON list, or a file that is there")
    if path.suffix.lower() != ".json":
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(FLAG, text, f"a readable file of UTF-8 text ({error})") from error
        return _listed([line.strip() for line in lines if line.strip()], FLAG)
    content = path.read_bytes().lstrip()
    if content.startswith(b"["):
        return class_names(content.decode(errors="replace"))
    said = json_file(path, FLAG)
    found = names_in(said, path.name)
    if found is None:
        turned = {str(number): name for name, number in said.items()}
        found = _numbered(turned if all(isinstance(n, int) for n in said.values()) else said, path.name)
    return found


def names_beside(checkpoint: Path) -> list[str] | None:
    """The names in the `config.json` beside a checkpoint; None where there are none."""
    config = (checkpoint if checkpoint.is_dir() else checkpoint.parent) / "config.json"
    return names_in(json_file(config, "--checkpoint"), config.name) if config.is_file() else None


def names_in(config: Mapping[str, Any], where: str) -> list[str] | None:
    """The names of a model's config of Hugging Face or timm; None where it has none of a person's making."""
    inner = config.get("pretrained_cfg")
    for said in (config, inner if isinstance(inner, Mapping) else {}):
        if isinstance(said.get("label_names"), list):
            return _listed(said["label_names"], f"label_names in {where}")
        if isinstance(said.get("id2label"), Mapping) and said["id2label"]:
            names = _numbered(said["id2label"], where)
            return None if all(_PLACEHOLDER.fullmatch(name) for name in names) else names
    return None


def _numbered(names: Mapping[str, Any], where: str) -> list[str]:
    """Names by their numbers, which go from 0 on."""
    wanted = {str(i) for i in range(len(names))}
    if set(names) != wanted:
        shown = sorted(set(names) ^ wanted)[:5]
        raise BadInput(f"numbers of classes in {where}", shown, f"0 to {len(names) - 1}, each once")
    return _listed([names[str(i)] for i in range(len(names))], f"names of classes in {where}")


def _listed(names: Any, thing: str) -> list[str]:
    if not isinstance(names, list) or not names or not all(isinstance(n, str) and n for n in names):
        raise BadInput(thing, names, "texts in a list")
    return names
