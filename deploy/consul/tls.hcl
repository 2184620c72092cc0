# TLS of a Consul agent, beside agent.hcl: consul agent -config-file agent.hcl -config-file tls.hcl
# `mlxmesh certs issue consul` makes the certificate, of the same authority as the mesh's own.
tls {
  defaults {
    ca_file         = "/etc/mlxmesh/tls/ca.crt"
    cert_file       = "/etc/mlxmesh/tls/consul.crt"
    key_file        = "/etc/mlxmesh/tls/consul.key"
    verify_outgoing = true
  }

  # Between agents. Only who shows the name server.dc1.consul passes for a server.
  internal_rpc {
    verify_incoming        = true
    verify_server_hostname = true
  }
}

# Health checks show the certificate above; without it, services with TLS refuse them. It is a key of
# the top level: under `tls` it would be unknown.
enable_agent_tls_for_checks = true

ports {
  http  = -1
  https = 8501
}
