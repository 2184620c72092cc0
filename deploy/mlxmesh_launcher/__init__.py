"""Runs a whole mesh as processes on one host, for `mlxmesh up` and `make demo`."""

from mlxmesh_shared.rpc.grpc_threads import use_fewer_threads

# Here, because services are forks of the launcher, and gRPC looks only once: when it is imported.
use_fewer_threads()
