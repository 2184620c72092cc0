"""Ensembles: one answer from the answers of several models."""
