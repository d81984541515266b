"""What the bundled server and the gateway share: reading requests, refusing them, the port and the log."""
