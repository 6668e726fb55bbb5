"""The feature layer of any model: what enters the linear layer whose output is the model's.

Our own classifiers say what their head and features are; a model that a user brings does not. The head
is found by what it does in a forward pass, never by its name or by a size that equals the number of
classes, which an auxiliary head has as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from rayunlearn.errors import BadInput
from rayunlearn.fields import check_value
from rayunlearn.models.modes import device_of, evaluating
from rayunlearn.streamed import Images

WHERE = "feature layer"


@dataclass(frozen=True, kw_only=True, eq=False)
class _Call:
    """One call of a linear layer; the tensors are kept, so that their memory is not used again."""

    name: str
    layer: nn.Linear
    features: Tensor
    """The layer's input as it was then, [..., D]."""
    output: Tensor
    """The tensor that the layer returned."""
    value: Tensor
    """What was in it then: a later operation in place changes `output`."""

    def gave(self, result: Tensor) -> bool:
        """Whether the model returned this output: the same memory, read alike, and unchanged since."""
        return (
            self.output.data_ptr() == result.data_ptr()
            and self.output.shape == result.shape
            and self.output.stride() == result.stride()
            and torch.equal(self.value, result)
        )


def head_of(model: nn.Module, example: Tensor) -> tuple[str, nn.Linear]:
    """The last linear layer whose output is the model's output, with its name within the model.

    Found by a forward pass in eval mode; the model is left as it was. A layer whose output is changed
    afterwards, by a softmax, a scale or anything else, in place or not, is not the head: what it puts
    out are not the model's logits.

    Args:
        model: images [B, C, H, W] -> logits [B, K].
        example: [B, C, H, W], two images or more where the model treats a batch of one otherwise.

    Returns:
        The name as in `model.named_modules()` (empty where the model is the layer) and the layer.

    Raises:
        BadInput: no linear layer's output is the model's, with those that ran; or the output is no
            tensor [B, K] of finite numbers.
    """
    call = _head_call(model, example, _linear_layers(model))
    return call.name, call.layer


def features_of(model: nn.Module, images: Images, batch_size: int = 1024) -> Tensor:
    """The head's input in eval mode, on CPU: [N, C, H, W] -> [N, D]; the model is left as it was.

    Args:
        model: images [B, C, H, W] -> logits [B, K].
        images: at least one.
        batch_size: images per forward pass.

    Raises:
        BadInput: as `head_of`; or the head of one batch is not that of another; or a feature is NaN or
            infinite.
    """
    check_value("batch_size", batch_size, PositiveInt, where=WHERE)
    parts: list[Tensor] = []
    layers = _linear_layers(model)
    for batch in images.split(batch_size):
        call = _head_call(model, batch, layers)
        layers = {call.name: call.layer}
        parts.append(call.features.cpu())
    features = torch.cat(parts)
    not_finite = int((~features.isfinite().all(dim=1)).sum())
    if not_finite:
        sentence = f"the model's features are not finite for {not_finite} of {len(images)} images"
        raise BadInput("number of images with NaN or infinite features", not_finite, "0", where=sentence)
    return features


def _linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def _head_call(model: nn.Module, images: Tensor, layers: Mapping[str, nn.Linear]) -> _Call:
    """The last call of one of these layers whose output the model returns for these images."""
    if not len(images):
        raise BadInput("number of images", 0, "at least 1", where=WHERE)
    with evaluating(model), _recorded(layers) as calls:
        result = model(images.to(device_of(model)))
    if not isinstance(result, Tensor):
        raise BadInput("the model's output", type(result).__name__, "a tensor [B, K]", where=WHERE)
    if result.dim() != 2 or len(result) != len(images):
        allowed = f"[{len(images)}, K]"
        raise BadInput("shape of the model's output", list(result.shape), allowed, where=WHERE)
    if not bool(result.isfinite().all()):
        broken = int((~result.isfinite().all(dim=1)).sum())
        raise BadInput("number of images with NaN or infinite output", broken, "0", where=WHERE)
    for call in reversed(calls):
        if call.gave(result):
            return call
    seen = list(dict.fromkeys(f"{call.name} {list(call.value.shape)}" for call in calls))
    allowed = f"one whose output is the model's, of shape {list(result.shape)}, as it is"
    raise BadInput("linear layers that ran, with their outputs' shapes", seen, allowed, where=WHERE)


@contextmanager
def _recorded(layers: Mapping[str, nn.Linear]) -> Iterator[list[_Call]]:
    """Record every call of these layers inside, in order; the hooks are removed on leaving."""
    calls: list[_Call] = []

    names = {layer: name for name, layer in layers.items()}

    def record(layer: nn.Module, args: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor) -> None:
        assert isinstance(layer, nn.Linear)
        (features,) = (*args, *named.values())
        calls.append(
            _Call(
                name=names[layer],
                layer=layer,
                features=features.clone(),
                output=output,
                value=output.clone(),
            )
        )

    handles = [layer.register_forward_hook(record, with_kwargs=True) for layer in names]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
