"""Train the digits model and write `models/digits.npz`: `python -m tools.train_digits`.

Trained on four fifths of scikit-learn's digits, each shifted, turned, stretched and blurred a little anew in every
epoch, and on drawings of `tools/draw_digits.py` that went through the service's own `ink` fit. The other fifth, every
image whose index is divisible by 5, is held out: nothing is trained or chosen by it. Repeatable on one machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

import ink
from models.digits import WEIGHTS, Digits
from tools.draw_digits import draw

EPOCHS = 150
DRAWINGS = 3000
HIDDEN = 128
SEED = 20

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]


def split() -> tuple[tuple[Pixels, Labels], tuple[Pixels, Labels]]:
    """Return the images, shape (n, 8, 8), and labels to train on, then those held out."""
    digits = load_digits()
    images = np.round(digits.images * 255 / 16).astype(np.uint8)
    labels = digits.target.astype(np.int64)
    held_out = np.arange(len(images)) % 5 == 0
    return (images[~held_out], labels[~held_out]), (images[held_out], labels[held_out])


def vary(pixels: Pixels, random: np.random.Generator) -> Pixels:
    """Return the image a little shifted, turned, slanted, stretched and blurred, or bolder or fainter."""
    shape = np.eye(2) + random.normal(0, 0.07, (2, 2))
    offset = 4 - shape @ [4, 4] + random.normal(0, 0.3, 2)
    large = Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC)
    matrix = (shape[0, 0], shape[0, 1], offset[0] * 4, shape[1, 0], shape[1, 1], offset[1] * 4)
    moved = large.transform((32, 32), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    small = np.asarray(moved.resize((8, 8), Image.Resampling.BOX), np.float64) / 255
    bolder = np.clip(small ** random.uniform(0.75, 1.3) * random.uniform(0.8, 1.15), 0, 1)
    return (255 * bolder).astype(np.uint8)


def drawings(count: int, random: np.random.Generator) -> tuple[Pixels, Labels]:
    """Draw digits and bring them to 8x8 as the service does."""
    labels = np.arange(count) % 10
    sheets = [draw(int(label), random, wobble=random.uniform(0.5, 1.6)) for label in labels]
    return np.stack([np.asarray(ink.fit(sheet, (8, 8))) for sheet in sheets]), labels


def train(images: Pixels, labels: Labels, random: np.random.Generator) -> MLPClassifier:
    """Train on the images, varied anew in every epoch."""
    network = MLPClassifier((HIDDEN,), alpha=1e-4, batch_size=128, random_state=SEED)
    for _ in range(EPOCHS):
        varied = np.stack([vary(image, random) for image in images])
        network.partial_fit(varied.reshape(len(varied), -1) / 255, labels, classes=np.arange(10))
    return network


def main() -> None:
    """Train, write the weights and print the accuracy on what was held out."""
    random = np.random.default_rng(SEED)
    (images, labels), (held_out, truth) = split()
    drawn, drawn_labels = drawings(DRAWINGS, random)
    network = train(np.concatenate([images, drawn]), np.concatenate([labels, drawn_labels]), random)
    arrays = {f"weights_{layer}": weights.astype(np.float16) for layer, weights in enumerate(network.coefs_)}
    arrays |= {f"bias_{layer}": bias.astype(np.float32) for layer, bias in enumerate(network.intercepts_)}
    np.savez_compressed(WEIGHTS, **arrays)
    found = [prediction["label"] for prediction in Digits().predict(held_out)]
    print(f"{WEIGHTS.name}: {WEIGHTS.stat().st_size} bytes, held-out accuracy {np.mean(found == truth):.4f}")


if __name__ == "__main__":
    main()
