"""What the settings choose of a model's input, and how that goes together with what the model says of itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from config import Settings
from errors import StartError
from inputs import Accepts, Fit, ModelInput
from models.scaling import Scaling

ANY_SIZE = -1
BINARY = "bytes"


@dataclass(frozen=True, slots=True)
class Declared:
    """One input as a graph or a model server declares it.

    shape: of one image, without the batch axis, in the model's own order of axes; -1: any size, None: any rank.
    dtype: numpy name, or "bytes" for strings and encoded images.
    """

    name: str
    shape: tuple[int, ...] | None
    dtype: str

    def __str__(self) -> str:
        """Say it in words."""
        shape = "of any shape" if self.shape is None else f"{list(self.shape)} after the batch axis"
        return f"{self.name}, {self.dtype} {shape}"


@dataclass(frozen=True, slots=True)
class Choice:
    """What the settings say of a model's input; None: what the model says.

    model: its name in messages.
    """

    model: str
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    accepts: Accepts | None = None
    fit: Fit | None = None
    scaling: Scaling = field(default_factory=Scaling)

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Read it from the settings."""
        return cls(
            model=settings.model,
            shape=settings.input_shape,
            dtype=settings.input_dtype,
            accepts=settings.accepts,
            fit=settings.fit,
            scaling=Scaling(
                scale=settings.input_scale,
                mean=settings.input_mean,
                std=settings.input_std,
                layout=settings.input_layout,
                dtype=settings.model_dtype,
            ),
        )

    def over(self, own: ModelInput | None) -> ModelInput:
        """Return what the model says it takes, with what the settings say instead.

        Raises StartError where neither names a shape.
        """
        accepts = self.accepts or (own.accepts if own else "tensor")
        shape = self.shape or (own.shape if own else ())
        if accepts == "tensor" and not shape:
            raise StartError(f"MICROBATCH_INPUT_SHAPE=: the model {self.model} does not say its input, so it is needed")
        return ModelInput(
            shape=shape,
            dtype=self.dtype or (own.dtype if own else "uint8"),
            accepts=accepts,
            fit=self.fit or (own.fit if own else "stretch"),
        )

    def learn(self, declared: Declared) -> tuple[ModelInput, Scaling]:
        """Return what one image must be for a declared input, and how a batch of those is brought to it.

        Images stay uint8 in the queue, whatever the model computes with; other tensors have the model's dtype.
        Raises StartError where the settings and the model do not go together, with both.
        """
        if declared.dtype == BINARY:
            self._refuse_unless(self.accepts != "tensor", "MICROBATCH_ACCEPTS=tensor", declared)
            return self.over(ModelInput((), accepts="encoded")), self.scaling
        self._refuse_unless(self.accepts != "encoded", "MICROBATCH_ACCEPTS=encoded", declared)
        shape = self._shape_for(declared)
        dtype = self.scaling.dtype or declared.dtype
        self._refuse_unless(dtype == declared.dtype, f"MICROBATCH_MODEL_DTYPE={dtype}", declared)
        image = ModelInput(shape)
        own = image if image.takes_images else ModelInput(shape, declared.dtype)
        loses = self.dtype and not self.scaling.changes_values and not np.can_cast(self.dtype, dtype, "same_kind")
        self._refuse_unless(not loses, f"MICROBATCH_INPUT_DTYPE={self.dtype}", declared)
        return self.over(own), replace(self.scaling, dtype=declared.dtype)

    def _shape_for(self, declared: Declared) -> tuple[int, ...]:
        """Return the shape of one image as clients send it, channels last."""
        wanted = declared.shape
        if wanted and len(wanted) == 3 and self.scaling.layout == "nchw":
            wanted = (*wanted[1:], wanted[0])
        shape = self.shape or wanted
        if not shape or ANY_SIZE in shape:
            raise StartError(f"MICROBATCH_INPUT_SHAPE=: is needed, the model {self.model} leaves it open: {declared}")
        fits = wanted is None or (
            len(shape) == len(wanted) and all(b in (a, ANY_SIZE) for a, b in zip(shape, wanted, strict=True))
        )
        self._refuse_unless(fits, f"MICROBATCH_INPUT_SHAPE={','.join(map(str, shape))}", declared)
        return shape

    def _refuse_unless(self, fits: bool, setting: str, declared: Declared) -> None:  # noqa: FBT001  # reads as a sentence
        if not fits:
            raise StartError(f"{setting}: does not fit the model {self.model}, whose input is {declared}")


def numpy_dtype(name: str, names: dict[str, str], *, model: str) -> str:
    """Return the numpy name of a declared dtype.

    Raises StartError where numpy has none or the service takes none such.
    """
    found = names.get(name, "")
    if found != BINARY and (not found or np.dtype(found).kind not in "biuf"):
        raise StartError(f"the model {model} takes {name}, which this service does not send")
    return found


def one_image(dims: tuple[int, ...] | None, model: str, sizes: Sequence[int] = ()) -> tuple[int, ...] | None:
    """Return a declared shape without its batch axis; None: nothing is declared.

    sizes: the only sizes of batch that are sent, empty: any. Raises StartError where the axis does not take them.
    """
    if dims is None:
        return None
    if not dims or dims[0] not in (ANY_SIZE, *sizes) or (dims[0] != ANY_SIZE and len(sizes) > 1):
        raise StartError(
            f"the model {model} takes {list(dims)}, but the first axis must be open, for any size of batch"
            + (f"; or set MICROBATCH_ALLOWED_BATCH_SIZES={dims[0]}" if dims else "")
        )
    return dims[1:]
