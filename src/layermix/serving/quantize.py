"""int8 from an exported float32 file: what can be quantised, and what each part of it costs."""

from collections.abc import Collection
from pathlib import Path

import onnx
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

QUANTISED = ("MatMul", "Gemm", "Gather")
"""Kinds of nodes that hold weights: products, and the lookup of embeddings."""


class Quantizer:
    """Makes int8 versions of one float32 file; activations are scaled as they come ("dynamic").

    Weights get a scale per output channel. The last product, which gives the logits, stays in
    float: it is small, and nothing averages its error out.

    Args:
        file: The float32 file.
        work: A folder for the file that is needed in between.

    Attributes:
        parts: The nodes that can be quantised, by name, in the order of the graph.
    """

    def __init__(self, file: Path, work: Path) -> None:
        self._prepared = work / "prepared.onnx"
        quant_pre_process(str(file), str(self._prepared), skip_symbolic_shape=True)
        graph = onnx.load(self._prepared).graph
        weights = {one.name for one in graph.initializer if len(one.dims) == 2}
        found = [
            node.name
            for node in graph.node
            if node.op_type in QUANTISED and weights & set(node.input)
        ]
        self.parts = tuple(found[:-1])

    def write(self, file: Path, parts: Collection[str]) -> None:
        """Write a version in which only these parts are quantised."""
        quantization.quantize_dynamic(
            self._prepared,
            file,
            op_types_to_quantize=list(QUANTISED),
            nodes_to_quantize=[part for part in self.parts if part in parts],
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
