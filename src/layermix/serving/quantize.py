"""Writes int8 versions of an exported float32 file, whole or in part."""

from collections.abc import Collection
from pathlib import Path

import onnx
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

QUANTISED = ("MatMul", "Gemm", "Gather")
"""Kinds of nodes with weights: products, and the lookup of embeddings."""


class Quantizer:
    """Writes int8 versions of one float32 file; activations are scaled at run time ("dynamic").

    Weights get a scale per output channel, and seven bits: x86 without VNNI adds two products of
    8-bit numbers in 16 bits, which saturate with eight. The last product, which gives the logits,
    stays in float: it is small, and no later layer averages out its error.

    Args:
        file: The float32 file.
        work: A folder for an intermediate file.

    Attributes:
        parts: The names of the nodes that can be quantised, in the order of the graph.
    """

    def __init__(self, file: Path, work: Path) -> None:
        self._prepared = work / "prepared.onnx"
        quant_pre_process(str(file), str(self._prepared), skip_symbolic_shape=True)
        graph = onnx.load(self._prepared).graph
        weights = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
        names = [
            node.name
            for node in graph.node
            if node.op_type in QUANTISED and weights & set(node.input)
        ]
        self.parts = tuple(names[:-1])

    def write(self, file: Path, parts: Collection[str]) -> None:
        """Write a version with only these parts quantised."""
        quantization.quantize_dynamic(
            self._prepared,
            file,
            op_types_to_quantize=list(QUANTISED),
            nodes_to_quantize=[part for part in self.parts if part in parts],
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            reduce_range=True,
            extra_options={"MatMulConstBOnly": True},
        )
