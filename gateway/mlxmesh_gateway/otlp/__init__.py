"""The telemetry of every process, by OTLP: fanned out to sinks, and recent traces kept."""
