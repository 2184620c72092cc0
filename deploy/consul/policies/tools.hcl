# The tools service: its own registration, everybody's addresses, the settings.
service "mlxmesh-tools" {
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
