"""`python -m services.ipam`."""

import sys

from services._runtime.run import run
from services._runtime.settings import SettingsError, load
from services.ipam.service import Ipam
from services.ipam.settings import Settings

if __name__ == "__main__":
    try:
        settings = load(Settings, "IPAM")
    except SettingsError as exc:
        sys.exit(f"ipam: {exc}")
    run("ipam", settings, lambda rt: Ipam(rt.bus, settings, holder=rt.settings.holder).run())
