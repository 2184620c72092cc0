"""What the mesh was used for, by whom."""
