"""The telemetry of every process: fanned out to sinks, and recent traces kept."""
