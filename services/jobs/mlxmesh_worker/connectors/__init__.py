"""Back ends that are not part of the mesh, behind one small port."""
