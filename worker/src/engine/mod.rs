//! INT8 inference in deployed engines: OpenVINO and ONNX Runtime.
