"""Points coding agents at the mesh: edits their configuration, and undoes that."""
