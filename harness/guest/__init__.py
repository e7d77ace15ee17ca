"""Guests: running machines with a console, SSH, introspection and snapshots."""
