"""A client of a Consul agent, and its blocking queries."""
