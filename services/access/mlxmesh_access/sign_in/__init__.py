"""Signing in: passwords, sessions, access tokens and OpenID Connect."""
