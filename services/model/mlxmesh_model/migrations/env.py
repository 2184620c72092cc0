"""Runs the Alembic revisions on the connection that the store passes in."""

from alembic import context

from mlxmesh_model.catalogue.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite cannot alter most things in place
)
with context.begin_transaction():
    context.run_migrations()
