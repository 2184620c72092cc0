"""The state of the mesh, as this gateway reports it."""
