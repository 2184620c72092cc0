"""The catalogue: models, versions and aliases, and their database."""
