"""The forward pass for CPUs: numpy and its BLAS, for the families of decoders that people run."""
