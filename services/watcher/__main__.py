"""`python -m services.watcher`: settings from NSM_* and WATCHER_* variables."""

from functools import partial

from services._runtime.run import run
from services._runtime.settings import given
from services.watcher.service import start
from services.watcher.settings import Settings

if __name__ == "__main__":
    settings = given(Settings, "watcher")
    run("watcher", settings, partial(start, settings))
