"""This machine: its files, disks and addresses."""
