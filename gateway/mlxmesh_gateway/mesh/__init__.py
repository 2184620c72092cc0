"""The state of the mesh: its instances, and the traffic of this gateway."""
