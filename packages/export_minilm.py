"""all-MiniLM-L6-v2 from its published weights to an int8 ONNX graph, without torch.

The graph takes `input_ids` and `attention_mask` (batch, tokens) and returns `embedding` (batch, 384): the mean over
the tokens, unit length. It is BERT written out: six layers of twelve heads. Matrices are int8 with a scale for each
output, activations uint8 with a scale for each call, token vectors int8 with a scale for each token. The quantisation
is written here, and not left to a library, so that the same weights give the same bytes, whose digest `fetch.py` knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

LAYERS, HEADS, WIDTH, EPSILON = 6, 12, 384, 1e-12  # the model's config.json
INPUTS = ("input_ids", "attention_mask")
OPSET, IR = 17, 8  # the oldest that have every operator used here


def export(weights: Path, target: Path) -> None:
    graph = _Graph(load_file(weights))
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "t"]) for name in INPUTS]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "all-MiniLM-L6-v2",
            inputs,
            [helper.make_tensor_value_info(graph.bert(), TensorProto.FLOAT, ["b", WIDTH])],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR,
        producer_name="simonides",
    )
    target.write_bytes(model.SerializeToString(deterministic=True))


class _Graph:
    """Nodes and constants as they are written down; each method adds some and returns the name of its result."""

    def __init__(self, weights: dict[str, NDArray[Any]]) -> None:
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def bert(self) -> str:
        mask = self.op("Cast", "attention_mask", to=TensorProto.FLOAT)
        blind = self.op("Unsqueeze", mask, self.constant([1, 2]))  # (b, 1, 1, t): -10,000 where there is no token
        blind = self.op("Mul", self.op("Sub", self.constant(1.0), blind), self.constant(-1e4))
        x = self.embeddings()
        for layer in range(LAYERS):
            at = f"encoder.layer.{layer}"
            x = self.norm(self.op("Add", self.attention(x, blind, f"{at}.attention"), x), f"{at}.attention.output")
            x = self.norm(self.op("Add", self.feed_forward(x, at), x), f"{at}.output")
        return self.mean(x, mask)

    def embeddings(self) -> str:
        of = "embeddings.{}_embeddings.weight"
        words, scales = _int8(self.weights[of.format("word")], axis=1)
        word = self.op("Cast", self.op("Gather", self.constant(words), "input_ids"), to=TensorProto.FLOAT)
        word = self.op("Mul", word, self.op("Gather", self.constant(scales), "input_ids"))
        places = self.constant(self.weights[of.format("position")] + self.weights[of.format("token_type")][0])
        length = self.op("Slice", self.op("Shape", "input_ids"), self.constant([1]), self.constant([2]))
        place = self.op("Slice", places, self.constant([0]), length, self.constant([0]))
        return self.norm(self.op("Add", word, place), "embeddings")

    def attention(self, x: str, blind: str, at: str) -> str:
        names = [f"{at}.self.{name}" for name in ("query", "key", "value")]
        query, key, value = (self.heads(y, key=y == made[1]) for made in [self.linear(x, *names)] for y in made)
        scores = self.op("Div", self.op("MatMul", query, key), self.constant((WIDTH / HEADS) ** 0.5))
        seen = self.op("MatMul", self.op("Softmax", self.op("Add", scores, blind), axis=-1), value)
        joined = self.op("Reshape", self.op("Transpose", seen, perm=[0, 2, 1, 3]), self.constant([0, 0, WIDTH]))
        return self.linear(joined, f"{at}.output.dense")[0]

    def heads(self, x: str, *, key: bool) -> str:
        split = self.op("Reshape", x, self.constant([0, 0, HEADS, WIDTH // HEADS]))
        return self.op("Transpose", split, perm=[0, 2, 3, 1] if key else [0, 2, 1, 3])

    def feed_forward(self, x: str, at: str) -> str:
        (x,) = self.linear(x, f"{at}.intermediate.dense")
        erf = self.op("Erf", self.op("Div", x, self.constant(2**0.5)))
        x = self.op("Mul", self.op("Mul", x, self.op("Add", erf, self.constant(1.0))), self.constant(0.5))  # GELU
        return self.linear(x, f"{at}.output.dense")[0]

    def linear(self, x: str, *names: str) -> list[str]:
        """Multiply x, quantised once, by each of the named matrices, and add their biases."""
        quantised, scale, zero = self.ops("DynamicQuantizeLinear", [x], results=3)
        made = []
        for name in names:
            matrix, scales = _int8(self.weights[f"{name}.weight"].T, axis=0)
            whole = self.op("MatMulInteger", quantised, self.constant(matrix), zero)
            both = self.op("Mul", scale, self.constant(scales[0]))
            real = self.op("Mul", self.op("Cast", whole, to=TensorProto.FLOAT), both)
            made.append(self.op("Add", real, self.constant(self.weights[f"{name}.bias"])))
        return made

    def norm(self, x: str, at: str) -> str:
        gain, bias = (self.constant(self.weights[f"{at}.LayerNorm.{part}"]) for part in ("weight", "bias"))
        return self.op("LayerNormalization", x, gain, bias, axis=-1, epsilon=EPSILON)

    def mean(self, x: str, mask: str) -> str:
        mask = self.op("Unsqueeze", mask, self.constant([2]))
        total = self.op("ReduceSum", self.op("Mul", x, mask), self.constant([1]), keepdims=0)
        mean = self.op("Div", total, self.op("ReduceSum", mask, self.constant([1]), keepdims=0))
        self.nodes.append(helper.make_node("LpNormalization", [mean], ["embedding"], axis=-1, p=2))
        return "embedding"

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        return self.ops(kind, inputs, results=1, **attributes)[0]

    def ops(self, kind: str, inputs: Sequence[str], *, results: int, **attributes: Any) -> list[str]:
        names = [f"{kind}_{len(self.nodes)}_{number}" for number in range(results)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names

    def constant(self, value: Any) -> str:
        array = np.asarray(value)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name


def _int8(matrix: NDArray[Any], *, axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return the matrix as int8, and the scales, largest magnitude along the axis / 127, that give it back."""
    real = matrix.astype(np.float32)
    scales = np.maximum(np.abs(real).max(axis=axis, keepdims=True) / 127, np.finfo(np.float32).tiny)
    return np.round(real / scales).astype(np.int8), scales.astype(np.float32)
