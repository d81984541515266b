"""`embedwire completion`."""

import os
from enum import Enum
from typing import Annotated

import typer

from embedwire.cli.app import app


class Shell(str, Enum):
    """Shells that typer knows."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"
    powershell = "powershell"


@app.command()
def completion(
    shell: Annotated[Shell, typer.Argument(help="The shell that will read it.", show_default=False)],
) -> None:
    """Print what makes a shell complete `embedwire` at Tab.

    bash, in ~/.bashrc: eval "$(embedwire completion bash)"

    zsh, in ~/.zshrc, below compinit: eval "$(embedwire completion zsh)"

    fish: embedwire completion fish > ~/.config/fish/completions/embedwire.fish
    """
    os.environ["_EMBEDWIRE_COMPLETE"] = (
        f"source_{shell.value}"  # how typer is asked for it, and by the script itself
    )
    app(prog_name="embedwire")
