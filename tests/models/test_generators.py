"""Claims about generators."""

import pytest
import torch

from rayunlearn.errors import BadInput
from rayunlearn.models.generators import Generator, GeneratorSpec, build_generator
from rayunlearn.models.weights import version_id


def noise(n=6, z_dim=16):
    """Noise `[n, z_dim]` from a fixed seed."""
    return torch.randn(n, z_dim, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("channels", "size", "kernel", "count"), [(3, 32, 3, 1_280_521), (1, 28, 7, 1_281_923)]
)
def test_table_v_layers_and_parameters(channels: int, size: int, kernel: int, count: int) -> None:
    """Table V at width 1: each layer's output, and the parameters by hand.

    Linear 128*8192 + 8192; BatchNorm 2*(128+128+64+C); convolutions 128*128*9+128, 128*64*9+64 and
    64*C*k*k+C with k = 3 for 32x32 colour images, 7 for 28x28 grey ones.
    """
    model = build_generator(GeneratorSpec(channels=channels, image_size=size), seed=0)
    shapes = []
    for layer in model.layers:
        layer.register_forward_hook(lambda _, inputs, output: shapes.append(tuple(output.shape[1:])))
    images = model(noise(2, 128))
    assert shapes == [
        (8192,), (128, 8, 8), (128, 8, 8),
        (128, 16, 16), (128, 16, 16), (128, 16, 16), (128, 16, 16),
        (128, 32, 32), (64, 32, 32), (64, 32, 32), (64, 32, 32),
        (channels, size, size), (channels, size, size),
    ]  # fmt: skip
    assert images.shape == (2, channels, size, size)
    by_hand = 128 * 8192 + 8192 + 2 * (128 + 128 + 64 + channels)
    by_hand += 128 * 128 * 9 + 128 + 128 * 64 * 9 + 64 + 64 * channels * kernel**2 + channels
    assert sum(p.numel() for p in model.parameters()) == by_hand == count
    assert f"{count:,}" in (Generator.__doc__ or "")


@pytest.mark.parametrize("size", [4, 8, 28, 32])
def test_images_have_the_size_asked_for(size):
    """Every multiple of 4 gives that size; 28 by the reference's 7x7 convolution on 32x32."""
    model = build_generator(GeneratorSpec(channels=2, image_size=size, z_dim=16, width=0.1), seed=0)
    assert model(noise()).shape == (6, 2, size, size)
    convs = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert convs[-1].kernel_size == ((7, 7) if size == 28 else (3, 3))


def test_batchnorm_output_is_standardised_and_leaves_the_pixel_range():
    """The paper's output has mean 0 and variance 1 in training mode; so it exceeds any range of +-1."""
    model = build_generator(GeneratorSpec(channels=1, image_size=8, z_dim=16), seed=0)
    images = model(noise(64))
    assert images.mean().abs() < 1e-5
    assert (images.std(correction=0) - 1).abs() < 1e-3
    assert images.max() > 1
    assert images.min() < -1


def test_pixel_range_output_is_the_sigmoid_of_the_papers():
    """`pixel_range` is low + (high-low)*sigmoid of the "batchnorm" generator's output, inside the range."""
    plain = build_generator(GeneratorSpec(channels=1, image_size=8, z_dim=16), seed=0)
    bounded = build_generator(
        GeneratorSpec(channels=1, image_size=8, z_dim=16, output="pixel_range", low=-0.5, high=1.5), seed=0
    )
    images = bounded(noise())
    assert torch.equal(images, -0.5 + 2.0 * torch.sigmoid(plain(noise())))
    assert images.min() >= -0.5
    assert images.max() <= 1.5


def test_initialisation_is_the_seeds_alone():
    """Equal seeds, equal weights, global RNG untouched; another seed differs."""
    spec = GeneratorSpec(channels=1, image_size=8, z_dim=16, width=0.1)
    before = torch.get_rng_state()
    first = version_id(build_generator(spec, seed=0).state_dict())
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(9)
    assert version_id(build_generator(spec, seed=0).state_dict()) == first
    assert version_id(build_generator(spec, seed=1).state_dict()) != first


@pytest.mark.parametrize(
    ("changes", "thing"),
    [
        ({"image_size": 30}, "image_size"),
        ({"z_dim": 0}, "z_dim"),
        ({"width": 0.0}, "width"),
        ({"output": "batchnrm"}, "output"),
        ({"output": "pixel_range", "high": 1.0}, "low"),
        ({"low": 1.0, "high": 1.0}, "low"),
    ],
)
def test_bad_fields_are_named(changes, thing):
    """A field out of range is refused by its name; a range is needed by "pixel_range"."""
    with pytest.raises(BadInput) as error:
        GeneratorSpec(**({"channels": 1, "image_size": 8} | changes))
    assert error.value.thing == thing
