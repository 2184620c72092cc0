# The runtime service: its own registration, everybody's addresses, the settings.
service "mlxmesh-runtime" {
  policy = "write"
}

# Engines are registered by the runtime that started them.
service "mlxmesh-engine" {
  policy = "write"
}

service_prefix "mlxmesh-" {
  policy = "read"
}

node_prefix "" {
  policy = "read"
}

key_prefix "mlxmesh/config/" {
  policy = "read"
}
