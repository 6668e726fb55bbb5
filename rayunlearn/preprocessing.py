"""How images are brought into a model's shape: stated once, recorded, the same wherever images are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import DocInfo
from pydantic import PositiveInt

from rayunlearn.errors import BadInput
from rayunlearn.fields import Checked

Interpolation = Literal["nearest", "bilinear", "bicubic"]

_CHANNELS = "1, 3 or None"
_SIZE = "a whole number > 0, or height and width as [48,64], or None"
Size = Annotated[PositiveInt | tuple[PositiveInt, PositiveInt] | None, DocInfo(_SIZE)]


@dataclass(frozen=True, kw_only=True)
class Preprocessing(Checked, section="data.preprocessing"):
    """What is done to an image before mean and std, in this order: channels, resize, crop.

    It is what torchvision's `Grayscale`, `Resize` and `CenterCrop` do to a Pillow image.

    Attributes:
        channels: 3 repeats grey in three channels, 1 makes grey of colours (ITU-R 601); None leaves both.
        resize: one number is the length of the shorter side, and the shape stays; two are height and width.
        crop: height and width of the middle that is kept, one number where they are the same.
        interpolation: of the resizing; bilinear and bicubic are antialiased, as Pillow does it.
    """

    channels: Annotated[int | None, DocInfo(_CHANNELS)] = None
    resize: Size = None
    crop: Size = None
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        if self.channels not in (None, 1, 3):
            raise BadInput("data.preprocessing.channels", self.channels, _CHANNELS)
