"""What a model takes: the one fact that batchers publish and api processes prepare images for."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal, Self, get_args

import numpy as np

Accepts = Literal["tensor", "encoded"]
Fit = Literal["stretch", "pad", "crop", "ink"]


@dataclass(frozen=True, slots=True)
class ModelInput:
    """The input of one image.

    shape: of one image's tensor without the batch axis: (height, width), (height, width, 1) or
        (height, width, 3) for images; any shape for models that are only sent `.npy` tensors.
    dtype: numpy name of the tensor's dtype; images are prepared as uint8 and then cast to it.
    accepts: "tensor", or "encoded": the checked image file as it came; shape and dtype then say nothing.
    fit: how an image of another size is brought to (height, width): "stretch" resizes both sides, "pad" keeps
        the proportions and adds a black border, "crop" keeps them and cuts the middle out, "ink" finds one
        drawn character (see images.py).
    """

    shape: tuple[int, ...]
    dtype: str = "uint8"
    accepts: Accepts = "tensor"
    fit: Fit = "stretch"

    def __post_init__(self) -> None:
        """Refuse what numpy cannot hold.

        Raises ValueError.
        """
        if self.accepts == "tensor" and (not self.shape or min(self.shape) < 1):
            raise ValueError(f"input shape {self.shape} must be one or more positive numbers")
        if not all(isinstance(side, int) for side in self.shape):
            raise ValueError(f"input shape {self.shape} must be whole numbers")
        if self.accepts not in get_args(Accepts) or self.fit not in get_args(Fit):
            raise ValueError(f"input accepts {self.accepts} or fit {self.fit} is unknown")
        if np.dtype(self.dtype).kind not in "biuf":
            raise ValueError(f"input dtype {self.dtype} must be a boolean, integer or float")

    def __str__(self) -> str:
        """Say it in words."""
        if self.accepts == "encoded":
            return "image files"
        shape = "x".join(map(str, self.shape))
        return f"{self.dtype} {shape}, fit {self.fit}" if self.takes_images else f"{self.dtype} {shape}"

    @property
    def takes_images(self) -> bool:
        """Whether an image file can be prepared for it."""
        return self.accepts == "encoded" or len(self.shape) == 2 or (len(self.shape) == 3 and self.shape[2] in (1, 3))

    @property
    def size_bytes(self) -> int:
        """How long one tensor is."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize

    def to_dict(self) -> dict[str, object]:
        """Return it as JSON-able values."""
        return {"shape": list(self.shape), "dtype": self.dtype, "accepts": self.accepts, "fit": self.fit}

    @classmethod
    def from_dict(cls, values: dict[str, object]) -> Self:
        """Read what `to_dict` wrote.

        Raises ValueError, TypeError or KeyError where another version wrote something else.
        """
        shape, accepts, fit = values["shape"], values["accepts"], values["fit"]
        if not isinstance(shape, list) or accepts not in ("tensor", "encoded"):
            raise ValueError("not a model input")
        if fit not in ("stretch", "pad", "crop", "ink"):
            raise ValueError("not a known fit")
        return cls(tuple(int(side) for side in shape), str(values["dtype"]), accepts, fit)
