"""Starts, monitors, restarts and drains the engine processes of one host."""
