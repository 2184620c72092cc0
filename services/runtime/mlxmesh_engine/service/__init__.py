"""The engine's process: the gRPC service, the step loop on the MLX thread, telemetry."""
