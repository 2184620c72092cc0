# A Consul agent for a mesh, run on every host: consul agent -config-file agent.hcl
# Three or five hosts also are servers: add `server = true` and `bootstrap_expect = 3` there.
data_dir    = "/var/lib/consul"
datacenter  = "dc1"
bind_addr   = "{{ GetPrivateIP }}"
client_addr = "127.0.0.1" # services speak to the agent of their own host

# Hosts to join; the same on every host.
retry_join = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]

acl {
  enabled                  = true
  default_policy           = "deny"
  down_policy              = "extend-cache" # known tokens go on working while the servers are away
  enable_token_persistence = true
}

# The agent asks gRPC health; nobody may have it run programs.
enable_script_checks       = false
enable_local_script_checks = false

# Each process of a mesh holds a few waiting queries open.
limits {
  http_max_conns_per_client = 500
}

ports {
  dns  = -1
  grpc = -1
}
