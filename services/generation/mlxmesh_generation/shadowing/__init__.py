"""Repeats a part of the traffic at another version, and compares the answers."""
