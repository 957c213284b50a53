"""Built-in detector for exported graphs: ONNX files and OpenVINO IR, each with a description in TOML."""
