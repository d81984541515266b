"""The `embedwire` command."""
