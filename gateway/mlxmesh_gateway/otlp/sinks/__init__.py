"""The kinds of sinks; one suite tests them all: tests/contract/test_telemetry_sinks.py."""
