"""Who is told what happens: the log always, the hooks of a client where it has any."""
