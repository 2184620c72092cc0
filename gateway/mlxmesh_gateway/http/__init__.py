"""The gateway's HTTP port: what is there, and the server that is started when somebody asks."""
