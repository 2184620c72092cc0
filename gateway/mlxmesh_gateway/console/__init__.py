"""The console: its files, served by the HTTP port."""
