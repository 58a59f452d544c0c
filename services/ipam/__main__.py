"""`python -m services.ipam`."""

from services._runtime.run import run
from services._runtime.settings import given
from services.ipam.service import Ipam
from services.ipam.settings import Settings

if __name__ == "__main__":
    settings = given(Settings, "ipam")
    run("ipam", settings, lambda rt: Ipam(rt.bus, settings, holder=rt.settings.holder).run())
