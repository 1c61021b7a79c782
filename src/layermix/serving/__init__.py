"""What is done with a saved model.

Read `predictor` (PyTorch or onnxruntime behind one interface), then `predict`, `evaluate`, `export`
with `quantize`, `benchmark` with `evaluation_rows`, and `hub`.
"""
