"""Domains of an endpoint's DNS: names as DNS has them, and how to write what is none."""

from schemas import values
from services.watcher.core import forms, limits
from services.watcher.core.fields import BadField


def read(texts: forms.Texts, field: str) -> tuple[str, ...]:
    """The domains of a field. Raises BadField."""
    written = texts or ()
    names = tuple(text.strip(".").lower() for text in written)
    limits.no_more(len(names), limits.MOST_NAMES, field, "domains")
    for at, name in enumerate(names):
        if not _is_domain(name):
            raise BadField(f"{field}[{at}]", f"{written[at]!r} is no domain", _remedy(name, field))
    return names


def _is_domain(name: str) -> bool:
    # Underscores are allowed: DNS knows them, though host names do not.
    return values.is_object_name(name.replace("_", "a"))


def _remedy(name: str, field: str) -> str:
    if not name and field == "dns.domains":
        return "leave domains out for every name"
    if name.startswith("*."):
        return f"drop the `*.`: {name[2:]} holds for every name below it"
    try:
        meant = name.encode("idna").decode()
    except UnicodeError:
        meant = ""
    if meant != name and _is_domain(meant):
        return f"write it as DNS has it: {meant}"
    return "write parts of letters, digits, '-' and '_', at most 63 each, with '.' between them, such as corp.example"
