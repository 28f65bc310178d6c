"""A policy as files: the bundle, ONNX, MLflow models."""
