"""Flags that say which model is served: its weights, and what it takes where no dataset says it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rayunlearn.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class ModelFlags:
    """The model to serve."""

    model: str | None = None
    """A network that is built in, or what makes one: torchvision:NAME, timm:NAME, package.module:factory."""

    model_args: str | None = None
    """Arguments of that factory, as '{"num_classes": 7}'."""

    head: str | None = None
    """Name of the module whose output are the logits; else it is looked for."""

    checkpoint: Path | None = None
    """Weights of the original: safetensors, its index, or a torch file; else an original is trained."""

    checkpoint_key: str | None = None
    """Where in that file the weights are, if it holds several state dicts."""

    input: str | None = None
    """Images that it takes: channels, height, width, as 3,32,32; datasets that are built in say theirs."""

    mean: str | None = None
    """What is subtracted from pixels in [0, 1], a number for each channel, as 0.49,0.48,0.45."""

    std: str | None = None
    """What they are divided by after that, a number for each channel, as 0.25,0.24,0.26."""

    classes: int | None = None
    """How many classes the model tells apart."""

    class_names: str | None = None
    """Their names with commas between, a JSON list, or a file: a name a line, or a config with id2label."""

    preprocessing: Path | None = None
    """What is done to images: a preprocessor_config.json, or timm's config; instead of --mean and --std."""

    def assignments(self) -> list[str]:
        """The settings of a recipe that the flags say, as `--set` takes them."""
        from rayunlearn.cli.class_list import class_names, names_beside  # here: the help needs none

        said: dict[str, object] = {
            "model.name": self.model,
            "model.arguments": self.model_args,
            "model.head": self.head,
            "model.input.shape": self.input,
            "model.input.mean": self.mean,
            "model.input.std": self.std,
            "model.classes": self.classes,
        }
        stated = self.classes is not None or self.input is not None
        if self.preprocessing is not None:
            said |= self._preprocessing(self.preprocessing, stated=stated)
        names = None if self.class_names is None else class_names(self.class_names)
        if names is None and stated and self.checkpoint is not None:
            beside = names_beside(self.checkpoint)
            names = beside if beside is not None and len(beside) == self.classes else None
        if names is not None:
            said["model.class_names" if stated else "data.class_names"] = json.dumps(names)
        return [f"{path}={value}" for path, value in said.items() if value is not None]

    def _preprocessing(self, path: Path, *, stated: bool) -> dict[str, object]:
        """What a file of preprocessing says, of a stated model or of the data that one is trained on."""
        from rayunlearn.cli.preprocessor_file import read_preprocessor  # here: the help needs none

        for flag, value in (("--mean", self.mean), ("--std", self.std)):
            if value is not None:
                raise BadInput(flag, value, "none beside --preprocessing, which states it")
        found = read_preprocessor(path)
        how = {
            f"data.preprocessing.{name}": json.dumps(value) if isinstance(value, tuple) else value
            for name, value in asdict(found.preprocessing).items()
        }
        if found.mean is None or found.std is None:
            allowed = "a file that states mean and std; [0, 0, 0] and [1, 1, 1] leave pixels in [0, 1]"
            raise BadInput("--preprocessing", str(path), allowed)
        of = "model.input" if stated else "data"
        said: dict[str, object] = {
            f"{of}.mean": ",".join(map(repr, found.mean)), f"{of}.std": ",".join(map(repr, found.std))
        }  # fmt: skip
        if stated and self.input is None:
            if found.size is None:
                allowed = "stated: the file of --preprocessing says no height and width"
                raise BadInput("--input", None, allowed)
            said["model.input.shape"] = ",".join(map(str, (len(found.mean), *found.size)))
        return {**how, **said}
