# Whoever runs `mlxmesh status` and sets settings: sees everything, registers nothing.
service_prefix "mlxmesh-" {
  policy = "read"
}

node_prefix "" {
  policy = "read"
}

key_prefix "mlxmesh/config/" {
  policy = "write"
}
