"""A PyTorch network as the model: `MICROBATCH_MODEL=python:examples.torch_model:TorchModel make run`.

Put your own network and weights where the small random one stands. PyTorch goes into the service's own environment
(`.venv/bin/pip install torch`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


class TorchModel:
    """Three scores for each picture of 64 x 64; images come as uint8 (n, 64, 64, 3)."""

    input_shape = (64, 64, 3)
    fit = "crop"

    def __init__(self) -> None:
        torch.manual_seed(1)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._network = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, stride=2),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
            torch.nn.Linear(8, 3),
            torch.nn.Softmax(dim=1),
        )
        self._network = self._network.eval().to(self._device)

    def predict(self, batch: NDArray[np.uint8]) -> list[Any]:
        """Return the scores of each of (n, 64, 64, 3) images."""
        with torch.inference_mode():  # one copy to the device, as bytes; the numbers become floats there
            images = torch.tensor(batch, device=self._device).permute(0, 3, 1, 2).float() / 255
            scores: list[Any] = self._network(images).cpu().tolist()
        return scores
