"""`python -m services.plumber`: one node's plumber."""

from services._runtime.run import run
from services._runtime.settings import given
from services.plumber.service import Plumber
from services.plumber.settings import Settings

if __name__ == "__main__":
    settings = given(Settings, "plumber")
    run("plumber", settings, lambda runtime: Plumber.start(runtime, settings), node=settings.node)
