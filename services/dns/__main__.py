"""`python -m services.dns`: one node's DNS."""

import sys

from services._runtime.run import run
from services._runtime.settings import SettingsError, load
from services.dns.service import Dns
from services.dns.settings import Settings

if __name__ == "__main__":
    try:
        settings = load(Settings, "DNS")
    except SettingsError as exc:
        sys.exit(f"dns: {exc}")
    run("dns", settings, lambda runtime: Dns.start(runtime, settings), node=settings.node)
