"""gRPC as the mesh uses it: channels, servers, interceptors, reflection, health."""
