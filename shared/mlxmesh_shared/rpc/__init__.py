"""gRPC as the mesh uses it: channels, servers, the call guard, reflection, health."""
