//! Graph and checkpoint to ONNX files, one profile per runtime.
