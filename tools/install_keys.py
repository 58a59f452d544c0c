"""The key of the bus, made once in a cluster, and the accounts that trust it.

It may run any number of times, also twice at once: whoever creates the Secret first decides, and the accounts
always follow from the keys that the Secret holds. It never changes or removes a key.
"""

import base64
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.kube import Api, InstallFailed, Object

SECRET, KEYS = "nsm-auth-keys", "keys.json"
CONFIG_MAP, ACCOUNTS = "nsm-nats-accounts", "accounts.conf"


def install(api: Api) -> list[str]:
    """Make what is missing; what was done, one line each. Raises InstallFailed."""
    secret = api.get("secrets", SECRET)
    said = [f"Secret {SECRET} is there"]
    with tempfile.TemporaryDirectory() as directory:
        keys = Path(directory, KEYS)
        if secret is None:
            _auth("keys", str(keys))
            data = {KEYS: base64.b64encode(keys.read_bytes()).decode()}
            secret = api.create("secrets", SECRET, {"data": data, "immutable": True})
            said = [f"Secret {SECRET} created"]
        if secret is None:  # another run was faster: its keys count
            secret = api.get("secrets", SECRET) or {}
            said = [f"Secret {SECRET} is there by now"]
        keys.touch(mode=0o600)
        keys.write_bytes(_keys_of(secret))
        accounts = _auth("config", str(keys))
    return [*said, _install_accounts(api, accounts)]


def _keys_of(secret: Object) -> bytes:
    try:
        return base64.b64decode(secret["data"][KEYS])
    except (KeyError, TypeError, ValueError) as exc:
        raise InstallFailed(
            f"Secret {SECRET} has no {KEYS}: delete it, so that new keys are made"
        ) from exc


def _install_accounts(api: Api, accounts: str) -> str:
    wanted = {"data": {ACCOUNTS: accounts}}
    if api.create("configmaps", CONFIG_MAP, wanted) is not None:
        return f"ConfigMap {CONFIG_MAP} created"
    found = api.get("configmaps", CONFIG_MAP) or {}
    if found.get("data") == wanted["data"]:
        return f"ConfigMap {CONFIG_MAP} is as it should be"
    api.patch("configmaps", CONFIG_MAP, wanted)
    return f"ConfigMap {CONFIG_MAP} changed; NATS reads it within minutes"


def _auth(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "services.auth", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise InstallFailed(f"services.auth {arguments[0]}: {done.stderr.strip()}")
    return done.stdout
