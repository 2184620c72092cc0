"""The kinds of sinks; tests/contract/test_telemetry_sinks.py holds them to one suite."""
