"""The process around the engine: its gRPC service, its MLX thread, its telemetry."""
