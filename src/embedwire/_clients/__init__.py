"""The doors, and who holds what: one loop's clients, the shared client's loop thread, servers in use."""
