"""A classifier's logits on images."""

from __future__ import annotations

import torch
from torch import Tensor

from rayunlearn.errors import BadInput
from rayunlearn.models.classifiers import Classifier
from rayunlearn.models.modes import device_of, evaluating

BATCH = 1024


def answers(model: Classifier, images: Tensor) -> Tensor:
    """Logits `[N, K]` on CPU, in eval mode; the model's mode is put back.

    Args:
        model: on any device.
        images: `[N, C, H, W]`, normalised; moved to the model's device batch by batch.

    Raises:
        BadInput: a logit is NaN or infinite: argmax would still name a class.
    """
    device = device_of(model)
    with evaluating(model):
        logits = torch.cat([model(batch.to(device)).cpu() for batch in images.split(BATCH)])
    wrong = int((~logits.isfinite().all(dim=1)).sum())
    if wrong:
        sentence = f"the model's logits are not finite for {wrong} of {len(images)} images"
        raise BadInput("number of images with NaN or infinite logits", wrong, "0", where=sentence)
    return logits
