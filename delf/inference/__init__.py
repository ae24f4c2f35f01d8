"""Models ready to run: TensorFlow, ONNX and TFLite."""
