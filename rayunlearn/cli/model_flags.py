"""Flags that say which model is served: its weights, and what it takes where no dataset says it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


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
    """Their names with commas between, or a JSON list."""

    def assignments(self) -> list[str]:
        """The settings of a recipe that the flags say, as `--set` takes them."""
        names = self.class_names
        if names is not None and not names.startswith("["):
            names = json.dumps([name.strip() for name in names.split(",")])
        said = {
            "model.name": self.model,
            "model.arguments": self.model_args,
            "model.head": self.head,
            "model.input.shape": self.input,
            "model.input.mean": self.mean,
            "model.input.std": self.std,
            "model.classes": self.classes,
            "model.class_names": names,
        }
        return [f"{path}={value}" for path, value in said.items() if value is not None]
