"""How generations ended, as generation instances report it, and who counts it."""
