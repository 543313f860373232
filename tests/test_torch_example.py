"""The example of a PyTorch model does what it says, where PyTorch is installed."""

from __future__ import annotations

import numpy as np
import pytest

from config import Settings
from model_client import open_model

pytest.importorskip("torch", reason="PyTorch is not among what the service or its tests need")


async def test_the_torch_example_gives_scores_that_do_not_depend_on_the_company() -> None:
    model = open_model(Settings(model="python:examples.torch_model:TorchModel"))
    await model.warm_up()
    images = np.random.default_rng(1).integers(0, 256, (4, 64, 64, 3), np.uint8)

    together = np.array(await model.predict(images), float)
    alone = np.array([(await model.predict(images[place : place + 1]))[0] for place in range(4)], float)
    await model.close()

    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(together.sum(axis=1), 1, atol=1e-5)
