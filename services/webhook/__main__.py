"""`python -m services.webhook`: settings from NSM_* and WEBHOOK_* variables."""

from functools import partial

from services._runtime.run import run_alone
from services._runtime.settings import given
from services.webhook.service import start
from services.webhook.settings import Settings

if __name__ == "__main__":
    settings = given(Settings, "webhook")
    run_alone("webhook", settings, partial(start, settings))
