"""Wiring: settings, addresses, servers. No rules of the domain."""
