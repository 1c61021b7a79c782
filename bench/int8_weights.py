"""What int8 costs a classifier, by how its weights are written: signed (8 or 7 bits) or unsigned.

    python bench/int8_weights.py MODEL… --train train.tsv --validation validation.tsv --task qnli

For each model folder and way: accuracy on the validation rows (all, in batches of 32), the share of
rows with float32's answer, and the mean change of a logit; then the mean cost in points over the
models. x86 without VNNI instructions saturates sums of products of signed 8-bit weights.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process

from layermix.config import DataConfig
from layermix.data.splits import labels_of
from layermix.data.texts import load_texts
from layermix.data.tokenization import Collator, tokenize_split
from layermix.models.inference import logits_of
from layermix.models.loading import load_classifier
from layermix.serving.export import write_onnx
from layermix.serving.predictor import OnnxRunner
from layermix.serving.quantize import QUANTISED, Quantizer

WAYS: dict[str, dict[str, Any]] = {
    "signed, 8 bits": {"weight_type": QuantType.QInt8},
    "signed, 7 bits": {"weight_type": QuantType.QInt8, "reduce_range": True},
    "unsigned, 8 bits": {"weight_type": QuantType.QUInt8},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="+", help="folders of classifiers of the same classes")
    parser.add_argument("--train", required=True, help="names the classes; its texts are not used")
    parser.add_argument("--validation", required=True)
    parser.add_argument("--task", help="as --data.task")
    parser.add_argument("--max_length", type=int, default=128)
    given = parser.parse_args()
    data = DataConfig(train=given.train, validation=given.validation, task=given.task)
    costs = defaultdict(list)
    for model in given.models:
        for way, cost in costs_of(model, data, given.max_length).items():
            costs[way].append(cost)
    for way, of_models in costs.items():
        print(f"{way}: costs {mean(of_models):.2f} points in the mean of {len(of_models)} models")


def costs_of(model: str, data: DataConfig, max_length: int) -> dict[str, float]:
    """Points of accuracy that each way costs one model, which are printed, too."""
    texts = load_texts(data)
    classifier = load_classifier(model, texts.label_names, problem=texts.problem)
    rows = texts.splits["validation"]
    tokens, _ = tokenize_split(rows, classifier.tokenizer, max_length)
    labels, collate = labels_of(rows["label"]), Collator(classifier.tokenizer)
    costs = {}
    with TemporaryDirectory() as folder:
        exact, prepared = Path(folder) / "model.onnx", Path(folder) / "prepared.onnx"
        write_onnx(classifier, exact)
        quant_pre_process(str(exact), str(prepared), skip_symbolic_shape=True)
        parts = Quantizer(exact, Path(folder)).parts
        expected = logits_of(
            OnnxRunner(exact, len(texts.label_names), by_word=False), tokens, collate
        )
        right = float((expected.argmax(1) == labels).mean())
        print(f"{model}: float32 {right:.4f}")
        for way, options in WAYS.items():
            file = Path(folder) / "int8.onnx"
            quantize_dynamic(
                prepared,
                file,
                op_types_to_quantize=list(QUANTISED),
                nodes_to_quantize=list(parts),
                per_channel=True,
                extra_options={"MatMulConstBOnly": True},
                **options,
            )
            found = logits_of(
                OnnxRunner(file, len(texts.label_names), by_word=False), tokens, collate
            )
            score = float((found.argmax(1) == labels).mean())
            same = float((found.argmax(1) == expected.argmax(1)).mean())
            moved = float(np.abs(found - expected).mean())
            print(f"  {way}: {score:.4f}, {same:.1%} same answers, logits move by {moved:.3f}")
            costs[way] = 100 * (right - score)
    return costs


if __name__ == "__main__":
    main()
