"""Files that jobs read and make."""
