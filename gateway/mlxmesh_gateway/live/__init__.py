"""What happens in the mesh as one stream, and the recent requests. docs/decisions/0071."""
