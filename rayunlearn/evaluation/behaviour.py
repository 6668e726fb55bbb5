"""What stopping and gate see of a behaviour: what the model answers to held-out samples of D' and examples.

For a whole class it is right that its accuracy falls to 0; for mislabelled samples it is right that accuracy
rises. What both have in common is asked here: does the model still give the erased label where the version
before did and the examples say it should not, and does it agree with that version everywhere else.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from rayunlearn.errors import BadInput
from rayunlearn.evaluation.synthetic import Assessment
from rayunlearn.inversion.unlearning_set import UnlearningSet
from rayunlearn.models.classifiers import Classifier
from rayunlearn.models.modes import evaluating
from rayunlearn.roles import Roles

BATCH = 1024


def assess_behaviour(model: Classifier, held: UnlearningSet, roles: Roles) -> Assessment:
    """Count what a model answers to held-out samples; eval mode, its mode is put back.

    Of the samples that are not unwanted, those that it answers as the version before did are right
    (`retain_correct`); of the unwanted ones those count that it still answers with an erased label
    (`forget_correct`), and what probability it gives these labels (`forget_mass`). The loss is the mean
    cross-entropy to the targets that the first kind are relearned from, nats.

    Raises:
        BadInput: no sample of one of the two kinds, or no label to erase.
    """
    if not roles.erased:
        raise BadInput("labels to erase", list(roles.erased), "at least one", where="assess_behaviour")
    for name, mask in (("unwanted samples", held.unwanted), ("other samples", ~held.unwanted)):
        if not bool(mask.any()):
            raise BadInput(f"held-out {name}", 0, "at least one", where="assess_behaviour")
    device = next(model.parameters()).device
    with evaluating(model), torch.no_grad():
        logits = torch.cat([model(part.to(device)).cpu() for part in held.images.split(BATCH)])
    answers, erased = logits.argmax(dim=1), torch.tensor(sorted(roles.erased))
    kept, unwanted = ~held.unwanted, held.unwanted
    mass = logits[unwanted].softmax(dim=1)[:, erased].sum(dim=1).mean()
    return Assessment(
        retain_correct=int((answers == held.answers)[kept].sum()),
        retain_count=int(kept.sum()),
        forget_correct=int(torch.isin(answers[unwanted], erased).sum()),
        forget_count=int(unwanted.sum()),
        retain_loss=float(F.cross_entropy(logits[kept], held.targets[kept])),
        forget_mass=float(mass),
        forgotten_share=tuple(float((answers == c).float().mean()) for c in roles.forgotten),
    )
