"""How a nats-server of the lab and the tests is configured: one alone, or several that know each other's ports.

A port of -1 lets the server choose. Servers of one cluster have to know each other's ports before they start, so
those are chosen by who starts them.
"""

import json
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

_CONFIG = """\
server_name: {name}
listen: "127.0.0.1:{port}"
{access}{tls}ports_file_dir: {run}
jetstream {{
  store_dir: {store}
  max_memory_store: 256MB
  max_file_store: 8GB
  sync_interval: "1s"
}}
{cluster}"""

# Not advertised: clients know all servers by their own configuration, with the token that an advertised address lacks.
_CLUSTER = """\
cluster {{
  name: "nsm"
  listen: "127.0.0.1:{port}"
  no_advertise: true
  {entry}
  routes: {routes}
}}
"""
_PASSWORD = 'authorization {{ user: "route", password: {password}, timeout: 2 }}'

_TLS = "tls {{ cert_file: {certificate}, key_file: {key}, timeout: 5 }}\n"
_MUTUAL_TLS = (
    "tls {{ cert_file: {certificate}, key_file: {key}, ca_file: {ca}, verify: true, timeout: 5 }}"
)


class Tls(msgspec.Struct, frozen=True, kw_only=True):
    """Files: one certificate for all servers, as a cluster has it, and whom everybody trusts."""

    certificate: Path
    key: Path
    ca: Path

    @classmethod
    def make(cls, directory: Path) -> "Tls":
        """A new authority, which is forgotten, and what it issued."""
        # Only where it is wanted: a tree without the services has a lab too.
        from services._runtime import certificates  # noqa: PLC0415

        now = datetime.now(UTC)
        authority = certificates.new_authority("nsm-lab", now=now)
        leaf = certificates.issue(authority, ["localhost", "127.0.0.1"], now=now)
        made = cls(
            certificate=directory / "tls.crt", key=directory / "tls.key", ca=directory / "ca.crt"
        )
        directory.mkdir(parents=True, exist_ok=True)
        made.ca.write_bytes(authority.certificate)
        made.certificate.write_bytes(leaf.certificate)
        _write_private(made.key, leaf.key.decode())
        return made

    def block(self, text: str) -> str:
        paths = {
            name: json.dumps(str(getattr(self, name))) for name in ("certificate", "key", "ca")
        }
        return text.format(**paths)


class Peers(msgspec.Struct, frozen=True, kw_only=True):
    """The servers of a cluster: their ports for each other, and what lets one in. Loopback is every user's."""

    ports: tuple[int, ...]
    password: str

    @classmethod
    def make(cls, ports: Sequence[int]) -> "Peers":
        return cls(ports=tuple(ports), password=secrets.token_urlsafe(24))

    def block(self, index: int, *, tls: Tls | None = None) -> str:
        """What the server of this index (from 0) is told of the others; with TLS a certificate is what lets it in."""
        who = "" if tls else f"route:{self.password}@"
        routes = [f"nats-route://{who}127.0.0.1:{port}" for port in self.ports]
        entry = (
            tls.block(_MUTUAL_TLS) if tls else _PASSWORD.format(password=json.dumps(self.password))
        )
        return _CLUSTER.format(port=self.ports[index], entry=entry, routes=json.dumps(routes))


def write_config(
    directory: Path,
    *,
    port: int = -1,
    name: str = "nsm",
    token: str = "",
    accounts: str = "",
    cluster: str = "",
    tls: Tls | None = None,
) -> Path:
    """The server's configuration in `directory`, which also gets its store and ports file.

    With a token only who knows it may connect, as nats://TOKEN@127.0.0.1:PORT: loopback is every user's.
    `accounts` is what `python -m services.auth config` prints: then the auth service says who may connect.
    `cluster` is what `Peers` say of the other servers; without it there are none.
    """
    store, run = directory / "store", directory / "run"
    for folder in (store, run):
        folder.mkdir(parents=True, exist_ok=True)
    path = directory / "nats.conf"
    access = f"authorization {{ token: {json.dumps(token)} }}\n" if token else ""
    if accounts:
        _write_private(directory / "accounts.conf", accounts)
        access = 'include "accounts.conf"\n'
    text = _CONFIG.format(
        name=name,
        port=port,
        access=access,
        tls=tls.block(_TLS) if tls else "",
        run=json.dumps(str(run)),
        store=json.dumps(str(store)),
        cluster=cluster,
    )
    _write_private(path, text)
    return path


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)
