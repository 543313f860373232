"""EfficientNet-Lite0's weights made into an ONNX graph.

Source of the architecture: tensorflow/tpu, efficientnet/lite/efficientnet_lite_builder.py; the names of the weights are
those of the package efficientnet-lite-pytorch.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

TAKEN_SIDE, SIDE = 256, 224
"""The network sees the middle of what it is given, as it did when it was measured."""
CLASSES = 1000
STAGES = (
    (1, 1, 1, 16),
    (2, 2, 6, 24),
    (2, 2, 6, 40),
    (3, 2, 6, 80),
    (3, 1, 6, 112),
    (4, 2, 6, 192),
    (1, 1, 6, 320),
)
"""Blocks, stride of the first, expansion, channels; the size of a kernel is that of its weights."""
STEM_CHANNELS = 32
EPSILON = 1e-3
"""Of the batch normalisation."""
OPSET, IR_VERSION = 17, 8
"""Old enough for every ONNX Runtime since 1.12."""

Weights = Mapping[str, NDArray[Any]]


class _Graph:
    """Nodes one after the other, each reading what the last one wrote."""

    def __init__(self, weights: Weights) -> None:
        self.last = "image"
        self._weights = weights
        self._nodes: list[NodeProto] = []
        self._constants: list[TensorProto] = []
        self._numbers = count()

    def add(self, kind: str, *inputs: str, **attributes: Any) -> None:
        """Add a node that reads `last`, then these."""
        name = f"{kind.lower()}_{next(self._numbers)}"
        self._nodes.append(helper.make_node(kind, [self.last, *inputs], [name], name, **attributes))
        self.last = name

    def constant(self, value: object, dtype: type[np.generic] = np.float32) -> str:
        """Add a constant and return its name."""
        name = f"constant_{next(self._numbers)}"
        self._constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def convolve(self, conv: str, norm: str, *, stride: int = 1, depthwise: bool = False, relu: bool = True) -> None:
        """Add a convolution with its batch normalisation folded in, padded as TensorFlow's SAME, and a ReLU6."""
        weights, bias = self._folded(conv, norm)
        kernel = weights.shape[-1]
        before, after = (kernel - stride) // 2, (kernel - stride + 1) // 2  # every size is a multiple of its stride
        self.add(
            "Conv",
            self.constant(weights),
            self.constant(bias),
            strides=[stride, stride],
            pads=[before, before, after, after] if kernel > 1 else [0, 0, 0, 0],
            group=len(weights) if depthwise else 1,
        )
        if relu:
            self.add("Clip", self.constant(0.0), self.constant(6.0))

    def _folded(self, conv: str, norm: str) -> tuple[NDArray[Any], NDArray[Any]]:
        weight, bias, mean, variance = (
            self._weights[f"{norm}.{part}"].astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        factor = weight / np.sqrt(variance + EPSILON)
        return self._weights[f"{conv}.weight"] * factor[:, None, None, None], bias - mean * factor

    def encoded(self) -> bytes:
        """Return it as a file: uint8 (n, 256, 256, 3) in, float32 (n, 1000) out."""
        takes = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", TAKEN_SIDE, TAKEN_SIDE, 3])
        self._nodes[-1].output[0] = "scores"
        gives = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", CLASSES])
        graph = helper.make_graph(self._nodes, "efficientnet-lite0", [takes], [gives], self._constants)
        opsets = [helper.make_opsetid("", OPSET)]
        return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION).SerializeToString())


def build(weights: Weights) -> bytes:
    """Return the graph as an ONNX file.

    Raises KeyError where a weight is missing.
    """
    graph = _Graph(weights)
    edge = (TAKEN_SIDE - SIDE) // 2
    bounds = ([edge, edge], [edge + SIDE, edge + SIDE], [1, 2])  # first, end, axes
    graph.add("Slice", *(graph.constant(each, np.int64) for each in bounds))
    graph.add("Cast", to=TensorProto.FLOAT)
    graph.add("Transpose", perm=[0, 3, 1, 2])
    graph.add("Sub", graph.constant(127.0))
    graph.add("Div", graph.constant(128.0))
    graph.convolve("_conv_stem", "_bn0", stride=2)
    _add_blocks(graph)
    graph.convolve("_conv_head", "_bn1")
    graph.add("GlobalAveragePool")
    graph.add("Flatten")
    graph.add("Gemm", graph.constant(weights["_fc.weight"]), graph.constant(weights["_fc.bias"]), transB=1)
    graph.add("Softmax", axis=1)
    return graph.encoded()


def _add_blocks(graph: _Graph) -> None:
    numbers, before = count(), STEM_CHANNELS
    for blocks, first_stride, expansion, channels in STAGES:
        for stride in (first_stride, *[1] * (blocks - 1)):
            _add_block(
                graph,
                f"_blocks.{next(numbers)}",
                stride,
                expands=expansion > 1,
                skips=stride == 1 and before == channels,
            )
            before = channels


def _add_block(graph: _Graph, name: str, stride: int, *, expands: bool, skips: bool) -> None:
    """Add an inverted residual: widen, filter each channel, narrow, and add what came in."""
    came_in = graph.last
    if expands:
        graph.convolve(f"{name}._expand_conv", f"{name}._bn0")
    graph.convolve(f"{name}._depthwise_conv", f"{name}._bn1", stride=stride, depthwise=True)
    graph.convolve(f"{name}._project_conv", f"{name}._bn2", relu=False)
    if skips:
        graph.add("Add", came_in)
