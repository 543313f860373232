"""Long JSON that is read in pieces says what it says when it is read whole."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from fronts import pieces
from inputs import ModelInput

TAKES = ModelInput((40, 50, 3))
BATCH = np.random.default_rng(1).integers(0, 256, (20, *TAKES.shape), dtype=np.uint8)


def plain(value: Any) -> Any:
    """Return it without arrays."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return value.tolist() if isinstance(value, np.ndarray) else value


def has_arrays(value: Any) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, np.ndarray) or (isinstance(value, list) and any(map(has_arrays, value[:30])))


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize(
    "document",
    [
        {"instances": BATCH.tolist()},
        {"signature_name": "x", "instances": BATCH.tolist(), "more": {"text": "]} [", "list": [1, [2]]}},
        {"inputs": {"input": BATCH.tolist()}},
        {"inputs": [{"name": "input", "data": BATCH.tolist(), "shape": [20, 40, 50, 3]}], "id": "1"},
    ],
)
def test_a_long_tensor_is_read_row_by_row(document: object, indent: int | None) -> None:
    found = pieces.load(json.dumps(document, indent=indent).encode(), TAKES)

    assert has_arrays(found)
    assert plain(found) == document


def test_a_flat_tensor_is_cut_into_rows_where_it_may_be_flat() -> None:
    document = {"inputs": [{"data": BATCH.ravel().tolist(), "shape": [20, 40, 50, 3]}]}
    body = json.dumps(document).encode()

    cut, whole = pieces.load(body, TAKES, flat=True), pieces.load(body, TAKES)

    assert plain(cut)["inputs"][0]["data"] == BATCH.reshape(20, -1).tolist()
    assert whole == document


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows[0][0][0].append(1),
        lambda rows: rows[0][0].append([]),
        lambda rows: rows.append(7),
        lambda rows: rows.append(rows[0][:3]),
        lambda rows: rows[3][2].__setitem__(1, "text"),
        lambda rows: rows[3][2].__setitem__(1, {"b": [1]}),
        lambda rows: rows[3][2][1].__setitem__(0, True),  # noqa: FBT003 - JSON
    ],
)
def test_what_is_not_rows_of_the_model_is_read_as_it_stands(change: Any) -> None:
    document = {"instances": BATCH.tolist()}
    change(document["instances"])

    assert plain(pieces.load(json.dumps(document).encode(), TAKES)) == document


@pytest.mark.parametrize("cut", [-1, -2, -3, len("{'instances': [[[")])
def test_what_is_no_json_is_refused(cut: int) -> None:
    body = json.dumps({"instances": BATCH.tolist()}).encode()

    with pytest.raises(ValueError, match=r"."):
        pieces.load(body[:cut] + body[cut + 1 :] if cut > 0 else body[:cut], TAKES)
