"""Copies of the paper's datasets that are known to lack images, by what they hold."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Incomplete:
    """What a copy lacks, in a sentence, and whether figures of it can stand beside the paper's."""

    said: str
    comparable: bool


INCOMPLETE = {
    "be8e2a0effaabb829e69dfd2a45add15887bcd28be7d281ae7f6847e836bc9de": Incomplete(
        "This SVHN is the first 10,000 images of the official test part alone, 8,001 for training and 1,999 "
        "for testing: it shows that the methods run, and its figures are not comparable with the paper's.",
        comparable=False,
    ),
    "8ebce5a7d42bdb9eafe686b477390520f99b634dae43d9e85020c9fd24860960": Incomplete(
        "This CIFAR-10 lacks 77 of the 50,000 training images and 21 of the 10,000 test images, all of them "
        "ships and horses.",
        comparable=True,
    ),
}
"""Dataset's hash (`LabelledImages.hash`) -> what it lacks."""
