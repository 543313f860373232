"""Small ONNX graphs, made for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

FLOAT, STRING, UINT8, INT64 = TensorProto.FLOAT, TensorProto.STRING, TensorProto.UINT8, TensorProto.INT64
Dims = Sequence[int | str | None] | None


def tensor(name: str, dtype: int, dims: Dims) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, dims)


def node(kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(kind, inputs, [output], **attributes)


def write_graph(
    path: Path,
    nodes: Sequence[NodeProto],
    *,
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    constants: dict[str, Any] | None = None,
) -> Path:
    made = [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(nodes, "made", inputs, outputs, made)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def write_sum(path: Path, dims: Dims, dtype: int = FLOAT) -> Path:
    """Write a graph that sums each image; it has a scalar a row."""
    return write_graph(
        path,
        [node("Cast", ["image"], "floats", to=FLOAT), node("ReduceSum", ["floats", "axes"], "sum", keepdims=0)],
        inputs=[tensor("image", dtype, dims)],
        outputs=[tensor("sum", FLOAT, ["n"])],
        constants={"axes": np.array([1, 2, 3])},
    )


def write_classes(path: Path, classes: int | str) -> Path:
    """Write a graph whose scores are its input, shape (n, 1, classes)."""
    return write_graph(
        path,
        [node("Squeeze", ["image", "axes"], "scores")],
        inputs=[tensor("image", FLOAT, ["n", 1, classes])],
        outputs=[tensor("scores", FLOAT, ["n", classes])],
        constants={"axes": np.array([1])},
    )
