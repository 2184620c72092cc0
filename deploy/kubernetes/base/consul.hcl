# The Consul agent of deploy/compose/compose.yaml and of deploy/kubernetes: one server, HTTPS, no access control.
# Only the services of the mesh reach it. A lost agent costs nothing that matters: the services keep the addresses
# that they know, and register again when it is back. Settings in its keys are lost, unless data_dir is kept.
server           = true
bootstrap_expect = 1
data_dir         = "/consul/data"
datacenter       = "dc1"
client_addr      = "0.0.0.0"
# The address of its container, if that has one only.
bind_addr = "{{ GetPrivateIP }}"
# Each process of a mesh holds a few waiting queries open.
limits {
  http_max_conns_per_client = 500
}

# It asks nobody outside for newer versions.
disable_update_check = true

enable_script_checks       = false
enable_local_script_checks = false

tls {
  defaults {
    ca_file         = "/etc/mlxmesh/tls/ca.crt"
    cert_file       = "/etc/mlxmesh/tls/consul.crt"
    key_file        = "/etc/mlxmesh/tls/consul.key"
    verify_outgoing = true
  }

  # Who registers a service shows a certificate of the mesh.
  https {
    verify_incoming = true
  }

  internal_rpc {
    verify_incoming        = true
    verify_server_hostname = true
  }
}

enable_agent_tls_for_checks = true

ports {
  dns   = -1
  grpc  = -1
  http  = -1
  https = 8501
}
