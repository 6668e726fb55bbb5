"""Where a network that is not built in comes from: a factory that the operator names, with its arguments.

A factory is `torchvision:NAME`, `timm:NAME`, or `package.module:factory`. It is code, so it is the operator's
choice, by command line or recipe; a request never names one.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from rayunlearn.errors import BadInput
from rayunlearn.extras import EXTRAS
from rayunlearn.fields import Checked, Digest

LIBRARIES = {"torchvision": "torchvision.models", "timm": "timm"}
"""Prefix of a factory -> the module that is imported for it."""
FORMS = "torchvision:NAME, timm:NAME or package.module:factory"
_FACTORY = re.compile(r"(torchvision|timm):[\w.-]+|[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_TRAINED = {"torchvision": ("weights", "weights_backbone"), "timm": ("pretrained", "checkpoint_path")}
"""Arguments that would load weights of somebody else's."""


@dataclass(frozen=True, kw_only=True)
class Source(Checked, where="source"):
    """All that builds a network that is not built in, beside its input and classes.

    Attributes:
        factory: as `FORMS` says.
        arguments: of the factory, a JSON object with its keys in order.
        head: name of the linear layer whose output are the logits, within the network.
        maps: names of the modules whose outputs `[B, C, H, W]` are its maps, in order of execution; none
            where it has none.
        digest: SHA-256 of the file that the factory is in, 64 hex digits; None where it is in no file.
    """

    factory: str
    arguments: str = "{}"
    head: str
    maps: tuple[str, ...] = ()
    digest: Digest | None = None

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        check_factory(self.factory, where=self.where)
        object.__setattr__(self, "arguments", canonical_arguments(self.arguments, where=self.where))

    @property
    def module(self) -> str:
        """The module that has to be imported to build the network."""
        return module_of(self.factory)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able fields; `from_dict` gives the same source back."""
        return {**asdict(self), "maps": list(self.maps)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Source:
        """A source from its fields, refusing unknown and missing ones."""
        known = {f.name for f in fields(cls)}
        if not isinstance(data, Mapping) or not {"factory", "head"} <= data.keys() <= known:
            raise BadInput("source", data, f"a mapping with factory, head, and of {sorted(known)} no other")
        return cls(**data)


def is_factory(name: str) -> bool:
    """Whether a model's name is that of a factory, not of a network that is built in."""
    return ":" in name


def check_factory(name: object, *, where: str = "") -> None:
    """Refuse what is no factory.

    Raises:
        BadInput: it has none of the forms.
    """
    if not isinstance(name, str) or not _FACTORY.fullmatch(name):
        raise BadInput("model", name, FORMS, where=where)


def canonical_arguments(text: object, *, where: str = "") -> str:
    """A factory's arguments as JSON with its keys in order.

    >>> canonical_arguments('{"b": 1,   "a": [2]}')
    '{"a":[2],"b":1}'

    Raises:
        BadInput: the text is no JSON object.
    """
    allowed = 'a JSON object, as {"num_classes": 7}'
    try:
        read = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError) as error:
        raise BadInput("model arguments", text, f"{allowed} ({error})", where=where) from error
    if not isinstance(read, dict):
        raise BadInput("model arguments", text, allowed, where=where)
    return json.dumps(read, sort_keys=True, separators=(",", ":"))


def module_of(factory: str) -> str:
    """The module that has to be imported for a factory.

    >>> module_of("torchvision:resnet18"), module_of("own.nets:make")
    ('torchvision.models', 'own.nets')
    """
    package, _, _ = factory.partition(":")
    return LIBRARIES.get(package, package)


def make(factory: str, arguments: str) -> nn.Module:
    """The network of a factory, with the weights that it is born with.

    Raises:
        BadInput: the module cannot be imported, has no such factory, or the factory fails or gives no module.
    """
    package, _, name = factory.partition(":")
    given = json.loads(arguments)
    for refused in _TRAINED.get(package, ()):
        if given.get(refused):
            allowed = "none: the weights come with --checkpoint, and a student starts from random ones"
            raise BadInput(f"argument {refused!r} of {factory}", given[refused], allowed)
    call = _named(factory)
    try:
        made = call(**given)
    except BadInput:
        raise
    except Exception as error:  # another's code may fail in any way
        allowed = f"what it builds a network from ({first_line(error)})"
        raise BadInput(f"arguments of {factory}", given, allowed) from error
    if not isinstance(made, nn.Module):
        raise BadInput(f"what {factory} gives", type(made).__name__, "a torch.nn.Module")
    return made


def first_line(error: Exception) -> str:
    """What an error of another's code says, in one line."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def digest_of(factory: str) -> str | None:
    """SHA-256 of the file that a factory is in; None where it is in none."""
    named = _named(factory)
    try:
        path = inspect.getsourcefile(inspect.unwrap(getattr(named, "builder", named)))
        return hashlib.sha256(Path(str(path)).read_bytes()).hexdigest()
    except (OSError, TypeError):
        return None


class _Library:
    """A network of a library by its name."""

    def __init__(self, call: Callable[..., Any], builder: Any, options: Mapping[str, Any]) -> None:
        self.call, self.builder, self.options = call, builder, options

    def __call__(self, **given: Any) -> Any:
        return self.call(**self.options, **given)


def _named(factory: str) -> Callable[..., Any]:
    """What a factory's name stands for."""
    package, _, name = factory.partition(":")
    try:
        module = import_module(module_of(factory))
    except Exception as error:
        how = "; put its folder on PYTHONPATH"
        if package in LIBRARIES:
            how = f" (pip install 'rayunlearn[{EXTRAS[package]}]')"
        allowed = f"the name of a module that can be imported{how}: {type(error).__name__}: {error}"
        raise BadInput("model", factory, allowed) from error
    if package == "torchvision":
        if name not in module.list_models():
            raise BadInput("model", factory, "a name of torchvision.models.list_models()")
        builder = module.get_model_builder(name)
        return _Library(builder, builder, {"weights": None})
    if package == "timm":
        if not module.is_model(name):
            raise BadInput("model", factory, "a name of timm.list_models()")
        return _Library(
            module.create_model, module.model_entrypoint(name), {"model_name": name, "pretrained": False}
        )
    found = getattr(module, name, None)
    if not callable(found):
        allowed = f"a function or class of {module_of(factory)}"
        raise BadInput("model", factory, allowed)
    return found
