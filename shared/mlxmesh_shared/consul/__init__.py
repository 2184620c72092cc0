"""What the mesh uses of Consul: an agent's API, and the queries that wait for a change."""
