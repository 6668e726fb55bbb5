"""Figures printed in *Few-Shot Unlearning by Model Inversion* (Yoon et al., arXiv 2205.15567).

Accuracies in per cent on D_r and D_e, mean and standard deviation over five runs as printed; originals and
oracles were run once. For a whole class a low accuracy on D_e is right, for mislabelled samples a high one.
Models and methods are named as in the registry; `fisher_1` and `fisher_2` are its two lambdas.
"""

from __future__ import annotations

from collections.abc import Mapping

from papers.rows import Printed

FULL, FEW = 1.0, 0.03
"""Share of D_e that is named, or shown: "full-shot" and "few-shot (3 %)"."""

Shots = Mapping[float, Printed]
"""Share of D_e -> figures."""


def _shots(full: tuple[float, ...], few: tuple[float, ...]) -> Shots:
    """Full-shot and few-shot, each as D_r, its deviation, D_e, its deviation."""
    return {
        share: Printed(retain, forget, spread=(retain_spread, forget_spread))
        for share, (retain, retain_spread, forget, forget_spread) in ((FULL, full), (FEW, few))
    }


def _once(retain: float, forget: float) -> Shots:
    """A model that no share is given to."""
    return {FULL: Printed(retain, forget)}


COMPARISONS: dict[tuple[str, str, str], dict[str, Shots]] = {
    ("mnist", "preactresnet18", "class"): {  # Table 2a
        "original": _once(99.47, 99.31),
        "oracle": _once(99.51, 0.46),
        "fisher_1": _shots((96.56, 1.39, 98.12, 1.15), (96.62, 1.30, 98.12, 1.18)),
        "fisher_2": _shots((13.68, 5.65, 0.76, 1.70), (20.04, 6.66, 0.62, 1.39)),
        "eubo": _shots((29.61, 1.16, 0.00, 0.00), (35.67, 1.51, 0.00, 0.00)),
        "rkl": _shots((97.62, 0.37, 75.53, 3.32), (97.57, 0.17, 75.46, 4.36)),
        "few_shot_pretrained": _shots((99.26, 0.11, 0.06, 0.08), (99.43, 0.07, 0.08, 0.07)),
        "few_shot": _shots((99.06, 0.28, 0.81, 1.58), (98.43, 0.92, 0.18, 0.27)),
    },
    ("mnist", "preactresnet18", "mislabelled"): {  # Table 2b
        "original": _once(98.68, 37.96),
        "oracle": _once(99.54, 100.00),
        "fisher_1": _shots((99.66, 0.05, 39.70, 4.55), (99.66, 0.05, 38.54, 4.97)),
        # no Fisher_2: "failed to erase mislabeled 7 for all hyperparameters"
        "eubo": _shots((18.81, 0.80, 0.00, 0.00), (36.96, 0.53, 0.00, 0.00)),
        "rkl": _shots((97.29, 0.46, 93.30, 2.68), (97.20, 0.16, 91.36, 1.35)),
        "few_shot_pretrained": _shots((99.17, 0.14, 97.81, 1.66), (98.97, 0.12, 97.52, 1.19)),
        "few_shot": _shots((99.06, 0.28, 96.94, 2.40), (99.27, 0.08, 97.52, 1.50)),
    },
    ("cifar10", "preactresnet18", "class"): {  # Fig. 6b
        "original": _once(93.24, 96.10),
        "oracle": _once(93.47, 2.40),
        "fisher_1": _shots((91.80, 0.42, 95.80, 0.57), (91.73, 0.41, 95.78, 0.63)),
        "fisher_2": _shots((13.60, 2.52, 0.00, 0.00), (13.60, 4.51, 0.00, 0.00)),
        "eubo": _shots((12.26, 0.65, 0.00, 0.00), (24.46, 0.48, 0.01, 0.00)),
        "rkl": _shots((87.33, 0.15, 70.04, 2.85), (87.23, 0.07, 68.50, 2.93)),
        "few_shot_pretrained": _shots((89.61, 0.49, 0.00, 0.00), (89.79, 0.29, 0.00, 0.00)),
        "few_shot": _shots((88.73, 0.54, 0.32, 0.28), (88.52, 0.32, 0.52, 0.17)),
    },
    ("mnist", "lenet5_bn", "class"): {  # Table 4a
        "original": _once(99.31, 99.20),
        "oracle": _once(99.34, 0.00),
        "few_shot_pretrained": _shots((98.80, 0.04, 0.44, 0.39), (98.74, 0.15, 0.32, 0.25)),
        "few_shot": _shots((98.46, 0.39, 0.12, 0.07), (98.41, 0.32, 0.60, 0.22)),
    },
    ("mnist", "lenet5_bn", "mislabelled"): {  # Table 4b
        "original": _once(99.19, 72.26),
        "oracle": _once(99.36, 95.62),
        "few_shot_pretrained": _shots((82.16, 1.57, 98.39, 0.29), (98.62, 0.07, 93.28, 3.24)),
        "few_shot": _shots((89.26, 3.70, 98.69, 0.29), (98.44, 0.24, 95.33, 3.12)),
    },
    ("mnist", "resnet50", "class"): {  # Table 4c
        "original": _once(99.24, 99.41),
        "oracle": _once(99.32, 0.00),
        "few_shot_pretrained": _shots((98.99, 0.12, 0.00, 0.00), (99.03, 1.13, 0.00, 0.00)),
        "few_shot": _shots((98.77, 0.40, 0.02, 0.04), (98.89, 0.32, 0.32, 0.32)),
    },
    ("mnist", "resnet50", "mislabelled"): {  # Table 4d
        "original": _once(99.19, 17.52),
        "oracle": _once(99.72, 100.00),
        "few_shot_pretrained": _shots((98.35, 0.46, 98.54, 1.13), (98.98, 0.19, 98.98, 0.36)),
        "few_shot": _shots((98.27, 0.43, 98.54, 0.46), (98.64, 0.53, 96.50, 1.87)),
    },
}
"""(dataset, model, task) -> model or method -> share of D_e -> figures."""

SECOND: dict[str, dict[str, Shots]] = {
    "class": {"original": _once(98.78, 99.50), "oracle": _once(99.67, 0.50)},
    "mislabelled": {"original": _once(99.45, 55.47), "oracle": _once(99.67, 99.27)},
}
"""Table 5: the second PreActResNet-18 on MNIST, by task."""

T_ENT: dict[float, Shots] = {
    0.282: _shots((98.63, 0.55, 0.00, 0.00), (98.61, 0.54, 0.00, 0.00)),
    0.500: _shots((99.26, 0.11, 0.06, 0.08), (99.43, 0.07, 0.08, 0.07)),
    0.867: _shots((98.37, 0.25, 0.00, 0.00), (98.58, 0.33, 0.00, 0.00)),
}
"""Table 3: the entropy threshold, nats, with Ours+ on Table 2a's setup."""

T_ENT_SAID: dict[float, float] = {0.282: 0.82, 0.500: 0.91, 0.867: 0.955}
"""Table 3: threshold -> the largest probability, the nine others equal, whose entropy it is said to be."""

LOSSES: dict[str, Shots] = {
    "": _shots((99.26, 0.11, 0.06, 0.08), (99.43, 0.07, 0.08, 0.07)),
    "batchnorm": _shots((94.34, 1.01, 93.54, 2.64), (94.72, 0.61, 89.40, 2.64)),
    "augmentation": _shots((98.93, 0.36, 0.00, 0.00), (99.13, 0.10, 0.00, 0.00)),
    "diversity": _shots((98.89, 0.14, 0.00, 0.00), (98.77, 0.38, 0.00, 0.00)),
    "total_variation": _shots((99.07, 0.09, 0.00, 0.00), (98.74, 0.27, 0.00, 0.00)),
}
"""Table 6: the loss that is switched off ("": none), on Table 2a's setup."""

KERNELS: dict[str, Shots] = {
    "rbf": _shots((99.26, 0.11, 0.06, 0.08), (99.43, 0.07, 0.08, 0.07)),
    "cosine": _shots((98.81, 0.15, 0.00, 0.00), (98.85, 0.27, 0.00, 0.00)),
    "l2": _shots((98.59, 0.51, 0.00, 0.00), (98.13, 0.27, 0.00, 0.00)),
}
"""Table 7: the kernel, on Table 2a's setup."""

CLASSIFIERS = ("preactresnet18", "preactresnet18_2", "lenet5_bn", "resnet50")
"""Columns of Table 5; the second is the first's architecture from another seed."""

_TRANSFER: dict[str, dict[str, tuple[tuple[float, ...], ...]]] = {
    "class": {  # Table 5a: D_e, its deviation, D_r, its deviation
        "preactresnet18": (
            (0.18, 0.27, 98.43, 0.92), (0.06, 0.12, 99.38, 0.09),
            (0.30, 0.06, 98.56, 0.61), (0.16, 0.15, 99.32, 0.17),
        ),
        "preactresnet18_2": (
            (0.00, 0.00, 98.53, 0.66), (0.00, 0.00, 99.15, 0.15),
            (2.81, 5.29, 98.14, 0.28), (0.00, 0.00, 98.97, 0.26),
        ),
        "lenet5_bn": (
            (0.06, 0.08, 98.19, 0.76), (0.24, 0.26, 99.36, 0.16),
            (0.60, 0.22, 98.41, 0.32), (0.16, 0.12, 99.28, 0.14),
        ),
        "resnet50": (
            (31.42, 21.20, 99.20, 0.22), (40.63, 22.33, 99.26, 0.28),
            (12.37, 9.50, 98.22, 0.44), (0.32, 0.32, 98.89, 0.32),
        ),
    },
    "mislabelled": {  # Table 5b
        "preactresnet18": (
            (97.52, 1.50, 99.27, 0.08), (99.85, 0.33, 99.14, 0.17),
            (99.42, 0.95, 83.04, 8.33), (99.85, 0.33, 97.79, 1.25),
        ),
        "preactresnet18_2": (
            (94.89, 5.06, 99.30, 0.13), (98.83, 1.22, 98.56, 0.51),
            (82.63, 11.59, 98.49, 0.48), (97.23, 0.95, 99.21, 0.11),
        ),
        "lenet5_bn": (
            (94.60, 5.50, 99.44, 0.06), (99.27, 0.33, 99.21, 0.18),
            (95.33, 3.12, 98.44, 0.24), (100.00, 0.00, 99.10, 0.48),
        ),
        "resnet50": (
            (96.06, 3.37, 99.34, 0.12), (100.00, 0.00, 99.42, 0.14),
            (99.27, 0.52, 97.45, 1.50), (96.50, 1.87, 98.64, 0.53),
        ),
    },
}  # fmt: skip

TRANSFER: dict[tuple[str, str, str], Printed] = {
    (task, generator, classifier): Printed(retain, forget, spread=(retain_spread, forget_spread))
    for task, rows in _TRANSFER.items()
    for generator, cells in rows.items()
    for classifier, (forget, forget_spread, retain, retain_spread) in zip(CLASSIFIERS, cells, strict=True)
}
"""Table 5, few-shot: (task, classifier that the generator was trained on, classifier) -> figures."""

FISHER_LAMBDAS = (1e-8, 5e-8, 1e-7, 1.5e-7, 2e-7, 2.5e-7, 3e-7, 3.5e-7)
"""Fig. 8."""

TUNED_LOG_LAMBDA = -2410
"""Fig. 5: the power of ten that EUBO's lambda is with "fine-tuning" on real accuracies."""

MOONS: dict[tuple[str, float | None], tuple[float, float]] = {
    ("ours", None): (0.306, 0.015),
    ("eubo", 1e-5): (0.004, 0.394),
    ("eubo", 1e-9): (0.012, 0.313),
    ("eubo", 0.0): (0.008, 0.340),
    ("rkl", 1e-5): (0.003, 0.432),
    ("rkl", 1e-9): (0.007, 0.348),
    ("rkl", 0.0): (0.012, 0.304),
}
"""Table 1, rho 0.25: (method, lambda) -> KL divergence from the original and from the oracle, nats."""

MOONS_RHO, MOONS_LAMBDA = 0.25, 1e-9
"""Of Table 1 and Fig. 2, and of Fig. 2 and 3."""
