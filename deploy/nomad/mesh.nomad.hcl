# A mesh as processes of the hosts (driver raw_exec): on Macs, where nothing else reaches the GPU, and on Linux without containers.
# docs/deploy.md has the commands. Each client host has a Consul agent at 127.0.0.1:8500, certificates in
# /etc/mlxmesh/tls (deploy/consul/README.md),
# and mlxmesh at the same path. Clients enable the driver: `plugin "raw_exec" { config { enabled = true } }`.
# The service's grace periods are longer than what a client allows by default: `client { max_kill_timeout = "6m" }`.

variable "datacenters" {
  type    = list(string)
  default = ["*"]
}

variable "python" {
  type        = string
  description = "The interpreter of the environment that mlxmesh is installed in."
  default     = "/opt/mlxmesh/bin/python"
}

variable "user" {
  type        = string
  description = "Whose processes these are; it reads the certificates."
  default     = "mlxmesh"
}

variable "data_dir" {
  type        = string
  description = "On each client host, owned by the user of the tasks."
  default     = "/var/lib/mlxmesh"
}

variable "consul_address" {
  type    = string
  default = "127.0.0.1:8500"
}

# Without certificates, for one host: `-var tls=false`.
variable "tls" {
  type    = bool
  default = true
}

# Where clients reach the gateway.
variable "grpc_port" {
  type    = number
  default = 50051
}

variable "http_port" {
  type    = number
  default = 8051
}

# On Linux: a new gateway listens on the ports beside the old one, until that has drained. For one gateway, on the one
# host whose client has `meta { mlxmesh_gateway = "true" }`. Without, an update leaves a pause of some seconds.
variable "gateway_hand_over" {
  type    = bool
  default = false
}

locals {
  # Services with databases in SQLite stay on the one host whose client has `meta { mlxmesh_databases = "true" }`.
  services = {
    runtime    = { count = 2, kill_timeout = "330s", cpu = 2000, memory = 8192, databases = false, ports = { grpc = 0 } }
    model      = { count = 1, kill_timeout = "30s", cpu = 250, memory = 1024, databases = true, ports = { grpc = 0 } }
    access     = { count = 1, kill_timeout = "30s", cpu = 250, memory = 512, databases = true, ports = { grpc = 0 } }
    generation = { count = 2, kill_timeout = "60s", cpu = 1000, memory = 2048, databases = false, ports = { grpc = 0 } }
    gateway    = { count = 1, kill_timeout = "75s", cpu = 500, memory = 1024, databases = false, ports = { grpc = var.grpc_port, http = var.http_port } }
    jobs       = { count = 1, kill_timeout = "30s", cpu = 250, memory = 512, databases = true, ports = { grpc = 0 } }
    worker     = { count = 1, kill_timeout = "60s", cpu = 250, memory = 512, databases = false, ports = { grpc = 0 } }
    tools      = { count = 1, kill_timeout = "30s", cpu = 250, memory = 512, databases = true, ports = { grpc = 0 } }
  }

  hands_over = var.gateway_hand_over ? ["gateway"] : []

  certificates = var.tls ? { MLXMESH_TLS_DIR = "/etc/mlxmesh/tls" } : {}
}

job "mlxmesh" {
  datacenters = var.datacenters
  type        = "service"

  # One process of a kind at a time; a version that does not become healthy is taken back.
  update {
    max_parallel      = 1
    health_check      = "checks"
    min_healthy_time  = "5s"
    healthy_deadline  = "5m"
    progress_deadline = "10m"
    auto_revert       = true
  }

  # The same when a host is drained (`nomad node drain`).
  migrate {
    max_parallel     = 1
    health_check     = "checks"
    min_healthy_time = "5s"
    healthy_deadline = "5m"
  }

  dynamic "group" {
    for_each = local.services
    labels   = [group.key]

    content {
      count = group.value.count

      dynamic "constraint" {
        for_each = contains(local.hands_over, group.key) ? ["gateway"] : []
        content {
          attribute = "${meta.mlxmesh_gateway}"
          value     = "true"
        }
      }

      # The old gateway answers checks of the port that it shares with the new one, so the new one gets time to start.
      update {
        canary           = contains(local.hands_over, group.key) ? 1 : 0
        auto_promote     = contains(local.hands_over, group.key)
        min_healthy_time = contains(local.hands_over, group.key) ? "60s" : "5s"
      }

      dynamic "constraint" {
        for_each = group.value.databases ? ["databases"] : []
        content {
          attribute = "${meta.mlxmesh_databases}"
          value     = "true"
        }
      }

      restart {
        attempts = 5
        interval = "5m"
        delay    = "2s"
        mode     = "delay"
      }

      # Ports that two processes share are not reserved: Nomad would not start the second one.
      network {
        dynamic "port" {
          for_each = { for name, port in group.value.ports : name => port if !contains(local.hands_over, group.key) }
          labels   = [port.key]
          content {
            static = port.value
          }
        }
      }

      # What Nomad's deployments wait for. The processes register themselves too, as mlxmesh-gateway and so on,
      # and find each other by that.
      service {
        name     = "nomad-mlxmesh-${group.key}"
        port     = contains(local.hands_over, group.key) ? "${var.grpc_port}" : "grpc"
        provider = "consul"

        check {
          type            = "grpc"
          interval        = "5s"
          timeout         = "4s"
          grpc_use_tls    = var.tls
          tls_server_name = var.tls ? "${group.key}.mlxmesh" : ""
        }
      }

      task "process" {
        driver = "raw_exec"
        user   = var.user

        # Nomad takes the service above out of Consul, waits, and then stops the process, which drains.
        shutdown_delay = "2s"
        kill_signal    = "SIGTERM"
        kill_timeout   = group.value.kill_timeout

        config {
          command = var.python
          args    = ["-m", "mlxmesh_${group.key}"]
        }

        env = merge(local.certificates, {
          MLXMESH_DATA_DIR                           = var.data_dir
          MLXMESH_REGISTRY                           = "consul"
          MLXMESH_CONSUL_ADDRESS                     = var.consul_address
          MLXMESH_INSECURE_LISTEN                    = var.tls ? "false" : "true"
          MLXMESH_ADVERTISE_HOST                     = contains(local.hands_over, group.key) ? "${attr.unique.network.ip-address}" : "${NOMAD_IP_grpc}"
          "MLXMESH_${upper(group.key)}_LISTEN"       = contains(local.hands_over, group.key) ? "${attr.unique.network.ip-address}:${var.grpc_port}" : "${NOMAD_IP_grpc}:${NOMAD_PORT_grpc}"
          MLXMESH_GATEWAY_HTTP_LISTEN                = contains(local.hands_over, group.key) ? "${attr.unique.network.ip-address}:${var.http_port}" : group.key == "gateway" ? "${NOMAD_ADDR_http}" : "auto"
          MLXMESH_GATEWAY_TAKE_OVER                  = var.gateway_hand_over ? "true" : "false"
          MLXMESH_ENGINE_LISTEN                      = "${NOMAD_IP_grpc}:0"
          MLXMESH_RUNTIME_HAND_OVER_S                = "240"
        })

        resources {
          cpu    = group.value.cpu
          memory = group.value.memory
        }
      }
    }
  }
}
