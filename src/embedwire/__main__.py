"""The `embedwire` command, which `python -m embedwire` is too; what needs typer says so, and all else works without."""

import os
import sys

from embedwire import _starting
from embedwire._version import __version__

EXTRAS = {
    "embed": "cli",
    "gateway": "cli",
    "doctor": "cli",
    "tune": "cli",
    "serve": "local",
    "completion": "cli",
}  # of each command
LLAMA_CPP = "llama-cpp"  # what serve needs for a GGUF file
HELP = f"""Usage: embedwire [--version] [--help] COMMAND …

Turn texts into vectors over HTTP.

Commands, and the extra of embedwire that each needs:
  embed       Embed whole corpora.                        {EXTRAS["embed"]}
  gateway     Put one address in front of servers.        {EXTRAS["gateway"]}
  doctor      Find out what is wrong with a server.       {EXTRAS["doctor"]}
  tune        Find the best sizes for a server.           {EXTRAS["tune"]}
  serve       Serve the bundled model.                    {EXTRAS["serve"]}
  serve FILE  Serve a GGUF file with llama.cpp.           {LLAMA_CPP}
  completion  Let a shell complete commands and options.  {EXTRAS["completion"]}
"""


def main() -> None:
    """Hand over to the command line, or say which extra it needs."""
    try:
        try:
            from embedwire.cli import app
        except ModuleNotFoundError as error:
            if error.name != "typer":
                raise
            _starting.done()
            _without_typer(sys.argv[1:])
        else:
            _starting.done()
            app(prog_name="embedwire")
    except KeyboardInterrupt:
        sys.stderr.write(f"{_starting.STOPPED}\n")
        sys.exit(130)


def _without_typer(arguments: list[str]) -> None:
    words = [one for one in arguments if not one.startswith("-")]
    command = words[0] if words else None
    if "_EMBEDWIRE_COMPLETE" in os.environ:  # a shell asks for completions, which are typer's
        sys.exit(1)
    if "--version" in arguments and command is None:
        sys.stdout.write(f"embedwire {__version__}\n")
    elif command in EXTRAS:
        extra = (
            LLAMA_CPP if command == "serve" and words[1:2] and words[1].endswith(".gguf") else EXTRAS[command]
        )
        sys.exit(f'embedwire {command} needs typer: install embedwire with its extra "{extra}".')
    elif command is not None:
        sys.stderr.write(f"There is no command {command}.\n\n{HELP}")
        sys.exit(2)
    else:
        sys.stdout.write(HELP)


if __name__ == "__main__":
    main()
