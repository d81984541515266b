"""The command line, a file for each command. Each imports what it needs when it runs."""

from embedwire.cli import completion, doctor, embed, gateway, serve, tune
from embedwire.cli.app import app

__all__ = ["app", "completion", "doctor", "embed", "gateway", "serve", "tune"]
