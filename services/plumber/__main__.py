"""`python -m services.plumber`: one node's plumber."""

import sys

from services._runtime.run import run
from services._runtime.settings import SettingsError, load
from services.plumber.service import Plumber
from services.plumber.settings import Settings

if __name__ == "__main__":
    try:
        settings = load(Settings, "PLUMBER")
    except SettingsError as exc:
        sys.exit(f"plumber: {exc}")
    run("plumber", settings, lambda runtime: Plumber.start(runtime, settings), node=settings.node)
