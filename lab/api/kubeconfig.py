"""A kubeconfig for the lab.

kubectl sends no credentials over plain HTTP: a lab with a token is for clients that do.
"""

from pathlib import Path

import yaml


def write_kubeconfig(path: Path, url: str, token: str = "", *, namespace: str = "default") -> None:
    """Write the file at once and readable by its owner only."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": {"server": url}}],
        "users": [{"name": "lab", "user": {"token": token} if token else {}}],
        "contexts": [
            {"name": "lab", "context": {"cluster": "lab", "user": "lab", "namespace": namespace}}
        ],
        "current-context": "lab",
        "preferences": {},
    }
    draft = path.with_name(f".{path.name}.new")
    draft.touch(mode=0o600)
    draft.write_text(yaml.safe_dump(config, sort_keys=False))
    draft.replace(path)
