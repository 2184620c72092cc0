"""The catalogue: models, versions and aliases, and the database that holds them."""
