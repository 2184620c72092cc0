"""What the command asks of a mesh, and how it reaches one."""
