"""Ensembles: recipes over models of the catalogue."""
