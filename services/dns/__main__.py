"""`python -m services.dns`: one node's DNS."""

from services._runtime.run import run
from services._runtime.settings import given
from services.dns.service import Dns
from services.dns.settings import Settings

if __name__ == "__main__":
    settings = given(Settings, "dns")
    run("dns", settings, lambda runtime: Dns.start(runtime, settings), node=settings.node)
