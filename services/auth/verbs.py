"""What the command line can ask for: keys are made once, the configuration follows from them, serving needs both."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from services.auth import keyring
from services.auth.keyring import BadKeys


def main(arguments: Sequence[str]) -> int | str:
    """The exit code, or what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m services.auth", description=__doc__)
    verbs = parser.add_subparsers(dest="verb")
    for verb, text in (
        ("keys", "make new keys (mode 0600; a file that exists is kept and an error)"),
        ("config", "print what the nats-server's configuration includes: accounts and callout"),
    ):
        verbs.add_parser(verb, help=text).add_argument("file", type=Path)
    asked = parser.parse_args(arguments)
    try:
        if asked.verb == "keys":
            keyring.make(asked.file)
        elif asked.verb == "config":
            sys.stdout.write(keyring.server_configuration(keyring.read(asked.file)))
        else:
            from services.auth import process  # noqa: PLC0415  an install step needs no API client

            return process.serve()
    except BadKeys as exc:
        return f"auth: {exc}"
    return 0
