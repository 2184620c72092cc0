"""The Open Inference Protocol, version 2: text generation for KServe's and Triton's clients."""
