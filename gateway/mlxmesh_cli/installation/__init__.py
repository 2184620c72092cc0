"""Installs a mesh, or one of its services, as a service of the host: systemd or launchd."""
