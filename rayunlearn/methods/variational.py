"""EUBO and RKL: the head unlearns as the mean of a Gaussian posterior; the body stays bit for bit.

Comparison systems of the few-shot paper (section 4); `rayunlearn.methods.last_layer` has the mathematics.
The paper trains its originals with a Bayesian last layer. A version here is an ordinary classifier, so that
q(theta|D) is fitted when a run begins, on the features of D = retain + forget. Deviation: it is the posterior
given the body's features, not what training a body together with it would have given.

**What this can forget**: the last layer alone. The body keeps what it knows of D_e, and a probe on its
features finds it.

**Mislabelled samples**: a request names them, and `forget` holds them with the wrong labels that they were
taught with; their likelihood under those labels is what goes down.

**Few-shot**: a request names the samples of D_e that are known. `retain` then holds the others, as D_r,rho
does in the paper (section 2), and D is all of D. Were they left out of both, a head fitted to the rest would
not know the class to begin with: with three samples of a digit as all of D_e, RKL too ends at 0 %. Even so
RKL forgets the whole class in one of ten runs on the 8x8 digits, where the paper's keeps it on MNIST
(docs/log.md, 79).

**lambda**: the paper takes 0 on MNIST, where EUBO ruins D_r (29.6 %, 0 % on D_e), and 10^-2410, chosen on
real accuracies, for figure 5. The default is e^-P, P being the number of the head's parameters, by the
reason and the figures in `rayunlearn.methods.last_layer`. RKL takes its thetas from the posterior, where
none lies so far out: for it the default is the paper's 0.
"""

from __future__ import annotations

from functools import partial

import torch

from rayunlearn.inversion.similarity import features_of
from rayunlearn.methods.last_layer import LastLayerEdit, LastLayerSettings
from rayunlearn.methods.unlearning import Edit, Handed, Method, required


def begin(objective: str, handed: Handed, settings: LastLayerSettings, device: str) -> Edit:
    """A run of one step, in which the posterior is fitted and unlearns.

    Args:
        objective: "eubo" or "rkl", the method's name.
        handed: with `forget` and `retain`.
        settings: posterior and objective.
        device: where the features are computed; the head unlearns on CPU, in float64.
    """
    forget, retain = (required(handed, part, objective) for part in ("forget", "retain"))
    model = handed.model(device)
    labels = torch.cat([retain.labels, forget.labels])
    change = LastLayerEdit(
        features=torch.cat([features_of(model, part.images) for part in (retain, forget)]),
        labels=labels,
        erased=torch.arange(len(labels)) >= len(retain),
        method=objective,
        settings=settings,
        seed=handed.seed,
    )
    return Edit(model, change)


def _method(objective: str, summary: str) -> Method:
    return Method(
        name=objective,
        summary=summary,
        source='Nguyen et al., "Variational Bayesian Unlearning" (NeurIPS 2020), on the last layer',
        data_access=frozenset({"weights", "forget", "retain"}),
        granularity=frozenset({"classes", "samples"}),
        section="last_layer",
        begin=partial(begin, objective),
        fixed_length=True,
    )


EUBO = _method("eubo", "minimises an upper bound of the evidence of what is retained, in the last layer")
RKL = _method("rkl", "fits the last layer to samples of its posterior that explain least what is forgotten")
