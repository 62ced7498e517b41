"""ONNX files under onnxruntime: sessions, inputs of foreign files, corrupted cells, latency."""
