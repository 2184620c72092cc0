"""The public API as gRPC: calls that are relayed, and the telemetry service."""
