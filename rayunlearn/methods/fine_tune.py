"""Oracle: the version's own weights, trained on with what is retained and nothing else.

The few-shot paper's reference (section 4): "fine-tuned with complete D_r initialized at the original w_o";
`retrain` begins with new weights instead. Of a mislabelled subset D_r is every other training sample: what
was mislabelled is left out and not labelled anew, here as in the paper (D_r = D without D_e, section 2).

Nothing but the optimizer's own steps drives out what is to be forgotten. Digits, AllCNN width 0.125, ten
epochs, test accuracy: mislabelled sevens, which the others contradict, go from 33 % right to 92 % in 60
steps; of class 9, which nothing contradicts, 98 % are left after 60 steps, 88 % after 250 and 40 % after 500.
Single samples that were learned by heart hardly go at this rate: from a mean probability of 0.94 to 0.69 in
480 steps, and to 0.01 in 120 at five times the rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rayunlearn.methods.retrain import Retraining
from rayunlearn.methods.training import TrainSettings
from rayunlearn.methods.unlearning import Handed, Method, Samples, required
from rayunlearn.seeds import derive_seed


@dataclass(frozen=True, kw_only=True)
class FineTuneSettings(TrainSettings, section="fine_tune"):
    """The few-shot paper's optimizer of classifiers (appendix C.4): SGD at 0.01, momentum 0.9, decay 2e-4.

    The paper gives no epochs and no batch size: those are ours.
    """

    epochs: int = 10
    batch_size: int = 128
    lr: float = 0.01
    weight_decay: float = 2e-4
    optimizer: Literal["adamw", "sgd"] = "sgd"
    schedule: Literal["one_cycle", "constant"] = "constant"


def begin(handed: Handed, settings: FineTuneSettings, device: str) -> Retraining:
    """A run from the weights of the version to forget from."""
    retain: Samples = required(handed, "retain", METHOD.name).to(device)
    seed = derive_seed(handed.seed, "fine-tuning batches")
    return Retraining(handed.model(device), retain.images, retain.labels, settings, seed)


METHOD = Method(
    name="fine_tune",
    summary="trains the version's own weights on, on what is retained",
    source='Few-Shot Unlearning by Model Inversion, section 4, "Oracle"',
    data_access=frozenset({"weights", "retain"}),
    granularity=frozenset({"classes", "samples"}),
    section="fine_tune",
    begin=begin,
    fixed_length=True,
)
