"""Networks that are given as objects: how the processes of a run build them anew.

A spec names what builds its network, so that any process can. An object has no such name; it has one for as
long as it is held here, in this process and in those that are told to.
"""

from __future__ import annotations

import copy
import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn

from rayunlearn.errors import BadInput
from rayunlearn.models.adapted import found_in
from rayunlearn.models.classifiers import SIDES, ClassifierSpec
from rayunlearn.models.sources import Source, first_line
from rayunlearn.seeds import seeded_default_generators
from rayunlearn.task import Input, Task

FACTORY = f"{__name__}:network"
RESETS = ("reset_parameters", "_reset_parameters")
"""Names under which modules of torch draw their weights anew."""

_HELD: dict[str, Callable[[], nn.Module]] = {}

Make = Callable[[], nn.Module]


class Anew:
    """Copies of a network with weights drawn anew, by its modules' own `reset_parameters`.

    Raises:
        BadInput: it cannot be copied, or a module has parameters and no such method.
    """

    def __init__(self, net: nn.Module) -> None:
        self.net = copied(net).cpu()
        for name, module in self.net.named_modules():
            own = [n for n, p in module.named_parameters(recurse=False) if p is not None]
            if own and _reset_of(module) is None:
                thing = f"{'.'.join(filter(None, (name, own[0])))} of the model"
                allowed = (
                    "a parameter whose module has reset_parameters(); or pass make=, a function without "
                    "arguments that builds the network with the weights it is born with"
                )
                raise BadInput(thing, f"a parameter of {type(module).__name__}", allowed)

    def __call__(self) -> nn.Module:
        """A copy of it, drawn from torch's default generators; every parameter learns."""
        net = copy.deepcopy(self.net)
        for module in reversed(list(net.modules())):  # the parts before the whole, as in their constructors
            if (reset := _reset_of(module)) is not None:
                reset()
        return net.requires_grad_(True)


def copied(net: nn.Module) -> nn.Module:
    """A copy of a network.

    Raises:
        BadInput: it cannot be copied.
    """
    try:
        return copy.deepcopy(net)
    except Exception as error:  # another's code may fail in any way
        allowed = f"a module that copy.deepcopy() copies ({first_line(error)})"
        raise BadInput("model", type(net).__name__, allowed) from error


def _reset_of(module: nn.Module) -> Callable[[], None] | None:
    found = (getattr(module, name, None) for name in RESETS)
    return next((reset for reset in found if callable(reset)), None)


def network(key: str) -> nn.Module:
    """A network that is held, with weights drawn anew.

    Raises:
        BadInput: none is held under the key, in this process.
    """
    if key not in _HELD:
        raise BadInput("key of a given network", key, f"one of {sorted(_HELD)}")
    return _HELD[key]()


def hold(key: str, make: Make) -> None:
    """Hold a network in this process."""
    _HELD[key] = make


@contextmanager
def held(make: Make) -> Iterator[str]:
    """Hold a network in this process inside; gives its key."""
    key = uuid.uuid4().hex
    hold(key, make)
    try:
        yield key
    finally:
        del _HELD[key]


def spec_of(key: str, net: nn.Module, images: Input) -> ClassifierSpec:
    """The spec of a network that is held under a key, by a look at the network itself.

    Args:
        key: of `held`.
        net: left as it was.
        images: that it takes.

    Raises:
        BadInput: it is no classifier of such images that `found_in` knows.
    """
    if not all(SIDES[0] <= side <= SIDES[1] for side in images.shape[1:]):
        allowed = f"{SIDES[0]} to {SIDES[1]} pixels high and wide"
        raise BadInput("shape", images.shape, allowed, where="input")
    with seeded_default_generators(0):  # a forward pass may draw
        found = found_in(net, images.shape)
    source = Source(
        factory=FACTORY, arguments=json.dumps({"key": key}), head=found.head, maps=tuple(found.maps)
    )
    return ClassifierSpec.of_task(Task(input=images, num_classes=found.num_classes), FACTORY, 1.0, source)
