"""A mesh of several hosts: how a host becomes the first one or joins, and stays in the mesh."""
