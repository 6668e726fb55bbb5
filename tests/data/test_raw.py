"""Claims about raw parts."""

import numpy as np
import torch

from rayunlearn.data.raw import channel_statistics


def test_statistics_are_the_means_and_population_deviations_of_each_channel():
    """Equal to numpy's in float64 to 12 digits; the sample deviation would differ at the third."""
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (6, 3, 5, 5), generator=draw, dtype=torch.uint8)
    pixels[:, 1] //= 2  # channels that differ
    mean, std = channel_statistics(pixels)
    scaled = pixels.numpy().astype(np.float64) / 255
    np.testing.assert_allclose(mean, scaled.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, scaled.std((0, 2, 3)), rtol=1e-12)
    assert not np.allclose(std, scaled.std((0, 2, 3), ddof=1), rtol=1e-3)
