"""The events of the mesh: stored for readers, delivered to other gateways and to webhooks."""
