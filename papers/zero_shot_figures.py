"""Figures printed in *Zero-Shot Machine Unlearning* (Chundawat et al., IEEE TIFS 2023; arXiv 2201.05629).

Accuracies in per cent on test images of D_r and D_f, as printed. `None` where the paper prints nothing.
Methods are named as in the registry; "original" and "gold" are the paper's Original and Retrain Model.
"""

from __future__ import annotations

from collections.abc import Mapping

from papers.rows import Printed

Row = Mapping[str, Printed]

TABLE_ONE: dict[tuple[str, tuple[int, ...]], Row] = {
    ("cifar10", (0,)): {
        "original": Printed(84.05, 87.49),
        "gold": Printed(85.72, 0.0),
        "min_max": Printed(20.48, 5.11, 0.11),
        "gkt": Printed(81.97, 0.0, 0.81),
    },
    ("cifar10", (1, 2)): {
        "original": Printed(84.18, 84.72),
        "gold": Printed(86.30, 0.0),
        "min_max": Printed(29.59, 7.59, 0.10),
        "gkt": Printed(81.70, 0.0, 0.74),
    },
    ("svhn", (0,)): {
        "original": Printed(94.52, 95.16),
        "gold": Printed(93.02, 0.0),
        "min_max": Printed(72.92, 42.32, 0.15),
        "gkt": Printed(92.43, 0.0, 0.37),
    },
    ("svhn", (1, 2)): {
        "original": Printed(93.61, 96.39),
        "gold": Printed(95.10, 0.0),
        "min_max": Printed(58.70, 50.23, 0.13),
        "gkt": Printed(92.13, 0.0, 0.74),
    },
    ("mnist", (0,)): {
        "original": Printed(97.84, 99.61),
        "gold": Printed(99.25, 0.0),
        "min_max": Printed(10.57, 0.0, 0.31),
        "gkt": Printed(97.12, 0.0, 0.65),
    },
    ("mnist", (1, 2)): {
        "original": Printed(98.17, 98.77),
        "gold": Printed(99.41, 0.0),
        "min_max": Printed(10.96, 0.0, 0.20),
        "gkt": Printed(96.87, 0.0, 0.30),
    },
}
"""Table I, AllCNN: (dataset, classes to forget) -> model -> figures."""

TABLE_TWO: dict[tuple[str, str], Row] = {
    ("cifar10", "lenet"): {
        "original": Printed(59.80, 65.25),
        "gold": Printed(62.93, 0.0),
        "min_max": Printed(55.32, 23.98, 24.0),
        "gkt": Printed(41.32, 0.0, 211.0),
    },
    ("cifar10", "resnet9"): {
        "original": Printed(84.83, 88.50),
        "gold": Printed(85.61, 0.0),
        "min_max": Printed(10.85, 0.0, 12.0),
        "gkt": Printed(56.83, 0.0, 212.0),
    },
    ("svhn", "lenet"): {
        "original": Printed(85.69, 81.42),
        "gold": Printed(88.31, 0.0),
        "min_max": Printed(81.80, 89.73, 1.0),
        "gkt": Printed(78.27, 0.0, 1.0),
    },
    ("svhn", "resnet9"): {
        "original": Printed(82.76, 87.11),
        "gold": Printed(94.24, 0.0),
        "min_max": Printed(53.75, 49.65, 2.0),
        "gkt": Printed(39.44, 0.0, 143.0),
    },
    ("mnist", "lenet"): {
        "original": Printed(98.15, 99.59),
        "gold": Printed(98.73, 0.0),
        "min_max": Printed(96.96, 99.37, 1.0),
        "gkt": Printed(95.79, 0.0, 1.0),
    },
    ("mnist", "resnet9"): {
        "original": Printed(98.57, 99.10),
        "gold": Printed(98.83, 0.0),
        "min_max": Printed(12.32, 0.0, 3.0),
        "gkt": Printed(94.57, 0.0, 2.0),
    },
}
"""Table II, class 0: (dataset, model) -> method -> figures."""

TABLE_THREE: dict[str, dict[str, bool]] = {
    "class-level": {"UNSIR": True, "Amnesiac": True, "Bad Teacher": True, "Fisher": True, "GKT": True},
    "random samples": {"UNSIR": False, "Amnesiac": True, "Bad Teacher": True, "Fisher": True, "GKT": False},
    "zero-glance": {"UNSIR": True, "Amnesiac": False, "Bad Teacher": False, "Fisher": False, "GKT": True},
    "zero samples": {"UNSIR": False, "Amnesiac": False, "Bad Teacher": False, "Fisher": False, "GKT": True},
}
"""Table III: attribute -> method -> whether the paper says that it has it."""

TABLE_FOUR: dict[tuple[int, ...], Row] = {
    (0,): {
        "original": Printed(84.05, 87.49),
        "gold": Printed(85.72, 0.0),
        "bad_teacher": Printed(83.71, 5.56),
        "fisher": Printed(7.61, 0.0),
        "amnesiac_relabel": Printed(83.47, 0.0),
        "min_max": Printed(20.48, 5.11),
        "gkt": Printed(81.97, 0.0),
    },
    (1, 2): {
        "original": Printed(84.18, 84.72),
        "gold": Printed(86.30, 0.0),
        "bad_teacher": Printed(84.11, 7.81),
        "fisher": Printed(8.57, 0.0),
        "amnesiac_relabel": Printed(82.85, 0.0),
        "min_max": Printed(29.59, 7.59),
        "gkt": Printed(81.70, 0.0),
    },
}
"""Table IV, AllCNN and CIFAR-10. Which Amnesiac was run the paper does not say; relabel is this project's
reading, since rollback of a whole class undoes nearly all training."""

TABLE_SIX: dict[str, tuple[float, ...]] = {
    "gkt": (81.97, 77.48, 79.94, 77.63, 84.44, 76.91, 77.92, 82.11, 83.01, 82.41),
    "gold": (85.72, 84.41, 86.47, 88.16, 84.53, 87.54, 85.42, 84.38, 84.99, 84.36),
}
"""Table VI, AllCNN and CIFAR-10: D_r accuracy after forgetting class 0, 1, ... 9; D_f is 0 throughout."""

TABLE_SEVEN: dict[str, dict[str, float]] = {
    "original": {"train": 0.998, "test": 0.791, "retain": 0.998, "forget": 0.998},
    "gold": {"train": 0.939, "test": 0.748, "retain": 0.998, "forget": 0.403},
    "gkt": {"train": 1.0, "test": 1.0, "retain": 1.0, "forget": 1.0},
}
"""Table VII, AllCNN and CIFAR-10: share of each set that the entropy attack calls members."""

THRESHOLDS = (0.5, 0.1, 0.01, 0.001)
"""Fig. 5: thresholds of the band-pass filter."""

SEQUENCE = (0, 2, 3, 4, 5, 6, 7)
"""Fig. 9: classes forgotten one after another."""
