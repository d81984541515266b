"""The `embedwire` command, which `python -m embedwire` is too."""

import sys


def main() -> None:
    """Hand over to the command line, or say what to install for it."""
    try:
        from embedwire.cli import app
    except ModuleNotFoundError as error:
        if error.name != "typer":
            raise
        sys.exit('The embedwire command needs typer: pip install "embedwire[local]"')
    app()


if __name__ == "__main__":
    main()
