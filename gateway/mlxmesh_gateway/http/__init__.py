"""The gateway's HTTP port: its routes, and the server that starts with the first client."""
