"""The catalogue: models, versions, artifacts and where replicas run."""
