"""Mislabelled samples, made on purpose: the few-shot paper's second task (section 4.2).

"We modify the label of 7 to 2, 3, and 7 uniformly random" is all that the paper says; of how many 7s, it
does not. An inference fills the gap: every accuracy on D_e that it gives for a single model is a multiple
of 1/137, and of the 1028 7s in MNIST's test part a fifth, rounded down, is 205, of which 137 change their
label when they are dealt to 2, 3 and 7 in turn. So the default is 20 %, rounded down; D_e is what changed,
and not all that was drawn; and the labels are dealt in equal shares at random, not one by one, so that the
count is the same for every seed.

A share so small is hard to see in a model. LeNet5 with BatchNorm on MNIST (SGD 0.01, momentum 0.9, batches
of 64, four epochs, one seed) was right on 99 % of those 137 test images and on 98 % of the 836 training
images that it was taught wrong, and took 11 of the 1028 test 7s for a 2 or a 3; the paper's
originals were right on 18 to 72 % of D_e, the larger the model the fewer, as if they had learned it by heart.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from rayunlearn.errors import BadInput
from rayunlearn.mislabelling import Mislabelling
from rayunlearn.seeds import generator


@dataclass(frozen=True, kw_only=True, eq=False)
class Mislabelled:
    """What a mislabelling gave.

    Attributes:
        labels: `[N]` int64 of the whole dataset, with the wrong ones in it.
        changed_ids: ascending, `[M]` int64, the samples whose label changed: D_e.
        right_labels: theirs before, `[M]` int64.
    """

    labels: Tensor
    changed_ids: Tensor
    right_labels: Tensor

    def taught(self, labels: Collection[int]) -> Tensor:
        """Which of `changed_ids` were given one of these labels, ascending, int64."""
        given = self.labels[self.changed_ids]
        return self.changed_ids[torch.isin(given, torch.tensor(list(labels), dtype=given.dtype))]


def mislabel(labels: Tensor, ids: Tensor, mislabelling: Mislabelling, seed: int) -> Mislabelled:
    """Deal wrong labels to a share of a class's samples, a function of the arguments alone.

    On the training part this makes what the original is trained on; on the test part, D_e's counterparts,
    to be judged by their right labels. A smaller share's samples are dealt the
    same labels in a larger one's.

    Args:
        labels: right ones, of the whole dataset, `[N]` int64; left as they are.
        ids: of the part that is mislabelled, indices into `labels`; the others keep their labels.
        mislabelling: of which class, to which labels, how many: the share's count is rounded down.
        seed: the user's root seed.

    Raises:
        BadInput: a class does not occur in the part, or the share is so small that no label changes.

    >>> right = torch.tensor([7] * 10 + [2, 3])
    >>> given = mislabel(right, torch.arange(12), Mislabelling(of=7, to=(2, 3, 7), share=0.6), seed=0)
    >>> [int((given.labels == c).sum()) for c in (2, 3, 7)], len(given.changed_ids)
    ([3, 3, 6], 4)
    """
    present = sorted(set(labels[ids].tolist()))
    for label in (mislabelling.of, *mislabelling.to):
        if label not in present:
            raise BadInput("class of the mislabelling", label, f"one of {present}")
    members = ids[labels[ids] == mislabelling.of].sort().values
    # by the decimal that the user wrote: 0.29 of 100 is 29, in floating point a little less
    count = int(Fraction(str(mislabelling.share)) * len(members))
    order = torch.randperm(len(members), generator=generator(seed, "mislabelling", mislabelling.of))
    dealt = torch.tensor(mislabelling.to, dtype=labels.dtype)[torch.arange(count) % len(mislabelling.to)]
    given = labels.clone()
    given[members[order[:count]]] = dealt
    changed = (given != labels).nonzero().flatten()
    if len(changed) == 0:
        allowed = f"so many of class {mislabelling.of}'s {len(members)} samples that a label changes"
        raise BadInput("data.mislabelling.share", mislabelling.share, allowed)
    return Mislabelled(labels=given, changed_ids=changed, right_labels=labels[changed])
