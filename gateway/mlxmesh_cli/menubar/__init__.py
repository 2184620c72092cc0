"""The menu-bar app of macOS: what it shows, and the ports to the screen and to the mesh."""
