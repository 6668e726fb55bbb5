"""Any network as a classifier: a body and a head, seen by hooks; the network itself is not changed.

What the rest of the system asks of a classifier is found once, when a lineage begins, by a forward pass
(`found_in`), and goes with every version. So no process has to find it again, and nothing hangs on the
network's class, on names, or on whether it can be traced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rayunlearn.errors import BadInput
from rayunlearn.models.body_and_head import Classifier
from rayunlearn.models.feature_layer import head_of
from rayunlearn.models.modes import evaluating
from rayunlearn.models.sources import first_line, make
from rayunlearn.seeds import generator

if TYPE_CHECKING:
    from rayunlearn.models.classifiers import ClassifierSpec

INSIDE = "net."
"""What comes before the network's own names in an adapted classifier's."""
_SKEW = 1.5
"""By how much a map's shape may differ from the image's: what is further off is no picture of it."""
_EXAMPLES = 2


class Adapted(Classifier):
    """A network of a factory.

    Args:
        spec: with a source.
    """

    def __init__(self, spec: ClassifierSpec) -> None:
        super().__init__(spec)
        assert spec.source is not None, "one without is built in"
        self.net = make(spec.source.factory, spec.source.arguments)
        named = dict(self.net.named_modules())
        for name in (spec.source.head, *spec.source.maps):
            if name not in named:
                raise BadInput("module", name, f"one of {spec.source.factory}", where="source")

    @property
    def head_name(self) -> str:
        """Of the head among this classifier's modules."""
        assert self.spec.source is not None
        return f"{INSIDE}{self.spec.source.head}" if self.spec.source.head else INSIDE.removesuffix(".")

    @property
    def head(self) -> nn.Linear:  # type: ignore[override]  # the built-in ones set it
        """The layer whose output are the logits."""
        head = self.get_submodule(self.head_name)
        assert isinstance(head, nn.Linear), "found_in() has seen to it"
        return head

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, K]` of normalised images `[B, C, H, W]`."""
        return logits_in(self.net(x))

    def features(self, x: Tensor) -> Tensor:
        """The head's input `[B, D]` for normalised images `[B, C, H, W]`, with its graph."""
        with _heard([self.head], inputs=True) as heard:
            self.net(x)
        return heard[0]

    def forward_with_maps(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits `[B, K]` and the maps `[B, C_l, H_l, W_l]` from first to last, with their graph."""
        assert self.spec.source is not None
        tapped = [self.net.get_submodule(name) for name in self.spec.source.maps]
        with _heard(tapped) as heard:
            logits = self.forward(x)
        return logits, [heard[place] for place in range(len(tapped))]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was found in a network.

    Attributes:
        head: name of the layer whose output are the logits.
        features: numbers that enter it.
        num_classes: logits that leave it.
        maps: name of the last module of each size of maps -> that size, in order of execution.
    """

    head: str
    features: int
    num_classes: int
    maps: Mapping[str, tuple[int, int]]


def found_in(net: nn.Module, shape: tuple[int, int, int], *, head: str | None = None) -> Found:
    """Head and maps of a network, by what its modules do with two images of noise.

    The head is the last linear layer whose output is what the network returns. A map is the output of the
    last module of a size, so that each stage of a network has one; a module that runs more than once and
    maps of one pixel are left out.

    Args:
        net: images `[B, C, H, W]` -> logits `[B, K]`, or a mapping or an object that has them as `logits`.
        shape: C, H and W.
        head: the layer that is to be the head; None looks for it.

    Raises:
        BadInput: the network does not take such images, has no such head or one of a single logit, or gives
            other answers when it is asked again.
    """
    plain = _Plain(net)
    images = torch.randn(_EXAMPLES, *shape, generator=generator(0, "images to find a head by"))
    with evaluating(net):
        try:
            first, again = plain(images), plain(images)
        except BadInput:
            raise
        except Exception as error:  # another's code may fail in any way
            allowed = f"what the network takes; on two such images it fails ({first_line(error)})"
            raise BadInput("--input", ",".join(map(str, shape)), allowed) from error
    if not torch.equal(first, again):
        allowed = "the same when it is asked again: dropout and other draws are off in eval mode"
        raise BadInput("the network's answer", "another one each time", allowed)
    if first.numel() == _EXAMPLES:
        allowed = (
            "one logit for each class, so at least 2: give the head of a binary classifier two outputs, with "
            "weights [0, w] and biases [0, b], whose softmax is its sigmoid"
        )
        raise BadInput("the network's output", "one logit", allowed)
    name, layer = head_of(plain, images)
    name = name.removeprefix(INSIDE) if name.startswith(INSIDE) else ""
    if head is not None and head != name:
        raise BadInput("--head", head, f"{name!r}, the linear layer whose output is the network's")
    return Found(
        head=name, features=layer.in_features, num_classes=layer.out_features, maps=_maps(net, images)
    )


def logits_in(output: Any) -> Tensor:
    """The logits in what a network returns: itself, or its `logits`.

    Raises:
        BadInput: there are none.
    """
    if isinstance(output, Tensor):
        return output
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(found, Tensor):
        return found
    has = sorted(map(str, output)) if isinstance(output, Mapping) else type(output).__name__
    raise BadInput("what the network returns", has, "logits [B, K], or a mapping or object with logits")


class _Plain(nn.Module):
    """A network that returns its logits alone."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return logits_in(self.net(x))


def _maps(net: nn.Module, images: Tensor) -> dict[str, tuple[int, int]]:
    height, width = images.shape[-2:]
    ran: list[tuple[str, tuple[int, int] | None]] = []

    def note(name: str, output: Any) -> None:
        size = None
        if isinstance(output, Tensor) and output.dim() == 4 and len(output) == len(images):
            high, wide = output.shape[-2:]
            skew = (high * width) / (wide * height)
            if high * wide > 1 and high <= height and wide <= width and 1 / _SKEW < skew < _SKEW:
                size = high, wide
        ran.append((name, size))

    handles = [
        module.register_forward_hook(lambda module, _, output, name=name: note(name, output))
        for name, module in net.named_modules()
        if name
    ]
    try:
        with evaluating(net):
            net(images)
    finally:
        for handle in handles:
            handle.remove()
    times: dict[str, int] = {}
    for name, _ in ran:
        times[name] = times.get(name, 0) + 1
    last: dict[tuple[int, int], str] = {}
    for name, size in ran:
        if size is not None and times[name] == 1:
            last.pop(size, None)
            last[size] = name
    return {name: size for size, name in last.items()}


@contextmanager
def _heard(modules: list[nn.Module], *, inputs: bool = False) -> Iterator[dict[int, Tensor]]:
    """Outputs of modules by their places in the list, or inputs, of the last call of each inside."""
    heard: dict[int, Tensor] = {}

    def entered(place: int, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        (heard[place],) = (*args, *named.values())

    def left(place: int, output: Tensor) -> None:
        heard[place] = output

    handles = [
        module.register_forward_pre_hook(
            lambda module, args, named, place=place: entered(place, args, named), with_kwargs=True
        )
        if inputs
        else module.register_forward_hook(lambda module, _, output, place=place: left(place, output))
        for place, module in enumerate(modules)
    ]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()
