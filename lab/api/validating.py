"""What each kind refuses: shapes, names, labels, and what fields must say beside each other. Pure.

The rules are the real server's as far as a client can notice them.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable
from typing import Any

from lab.api import definitions, fields, structural
from lab.api.errors import Cause, bad_value, required, too_long
from lab.api.kinds import (
    CONFIG_MAPS,
    DEFINITIONS,
    EVENTS,
    NAMESPACES,
    NEW_EVENTS,
    PODS,
    SERVICE_CIDRS,
    SERVICES,
    Kind,
)

Obj = dict[str, Any]

_MOST_ANNOTATED = 262_144  # bytes of all annotations, keys included

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_KEY = re.compile(
    r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
)
_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")

_SUBDOMAIN_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', "
    "and must start and end with an alphanumeric character"
)
_LABEL_RULE = (
    "a lowercase RFC 1123 label must consist of at most 63 lower case alphanumeric characters or '-', "
    "and must start and end with an alphanumeric character"
)


def problems(kind: Kind, obj: Obj, schema: structural.Schema) -> list[Cause]:
    """Everything that is wrong with an object by itself. `schema` is its kind's."""
    causes = structural.check(schema, obj)
    if causes:  # what has the wrong shape cannot be looked into
        return causes
    metadata = obj["metadata"]
    causes += _name_problems(kind, metadata.get("name", ""))
    for name, value in (metadata.get("labels") or {}).items():
        if _KEY.fullmatch(name) is None:
            causes.append(bad_value("metadata.labels", name, "is no label key"))
        if _VALUE.fullmatch(value) is None:
            causes.append(bad_value("metadata.labels", value, "is no label value"))
    for name in metadata.get("annotations") or {}:
        if _KEY.fullmatch(name.lower()) is None and _KEY.fullmatch(name) is None:
            causes.append(bad_value("metadata.annotations", name, "is no annotation key"))
    if sum(len(k.encode()) + len(v.encode()) for k, v in _annotations(obj)) > _MOST_ANNOTATED:
        causes.append(too_long("metadata.annotations", _MOST_ANNOTATED))
    if more := _PROBLEMS.get(kind):
        causes += more(obj)
    return causes


def _annotations(obj: Obj) -> Iterable[tuple[str, str]]:
    return (obj["metadata"].get("annotations") or {}).items()


def _name_problems(kind: Kind, name: str) -> list[Cause]:
    if kind in (NAMESPACES, SERVICES):
        good, rule = _LABEL.fullmatch(name), _LABEL_RULE
    else:
        good, rule = (len(name) <= 253 and _SUBDOMAIN.fullmatch(name)) or None, _SUBDOMAIN_RULE
    return [] if good else [bad_value("metadata.name", name, rule)]


def _pod_problems(pod: Obj) -> list[Cause]:
    spec = pod["spec"]
    seen: set[str] = set()
    causes = []
    for where in ("initContainers", "containers"):
        for number, container in enumerate(fields.items(spec, where)):
            name = container["name"]
            if name in seen:
                field = f"spec.{where}[{number}].name"
                causes.append(Cause(field, "FieldValueDuplicate", f'Duplicate value: "{name}"'))
            seen.add(name)
    return causes


def _config_map_problems(config_map: Obj) -> list[Cause]:
    rule = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'"
    return [
        bad_value(f"{part}[{name}]", name, rule)
        for part in ("data", "binaryData")
        for name in config_map.get(part) or {}
        if _DATA_KEY.fullmatch(name) is None
    ]


def _service_cidr_problems(found: Obj) -> list[Cause]:
    cidrs = fields.items(found, "spec", "cidrs")
    causes, families = [], []
    for number, text in enumerate(cidrs):
        field = f"spec.cidrs[{number}]"
        try:
            families.append(ipaddress.ip_network(text).version)
        except ValueError:
            why = "must be a valid CIDR value, without bits set beyond the prefix length"
            causes.append(bad_value(field, text, why))
    if not cidrs or len(set(families)) < len(families):
        why = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"
        causes.append(bad_value("spec.cidrs", cidrs, why))
    return causes


def _event_problems(event: Obj) -> list[Cause]:
    """The namespace is checked of every Event; all else only of those that say when in the new way."""
    about = fields.text(event, "involvedObject", "namespace")
    causes = []
    if fields.namespace_of(event) not in (about, "" if about else "default"):
        causes.append(
            bad_value("involvedObject.namespace", about, "does not match event.namespace")
        )
    if not event.get("eventTime"):
        return causes
    for name, most in _EVENT_TEXTS.items():
        text = fields.text(event, name)
        if not text and name != "message":
            causes.append(required(name))
        if len(text) > most:
            causes.append(bad_value(name, "", f"can have at most {most} characters"))
    if event.get("type") not in ("Normal", "Warning"):
        causes.append(bad_value("type", "", f"has invalid value: {fields.text(event, 'type')}"))
    return causes


_DATA_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_EVENT_TEXTS = {
    "reportingComponent": 317,
    "reportingInstance": 128,
    "action": 128,
    "reason": 128,
    "message": 1024,
}
_PROBLEMS: dict[Kind, Callable[[Obj], list[Cause]]] = {
    PODS: _pod_problems,
    CONFIG_MAPS: _config_map_problems,
    SERVICE_CIDRS: _service_cidr_problems,
    EVENTS: _event_problems,
    NEW_EVENTS: _event_problems,
    DEFINITIONS: definitions.problems,
}


def no_name() -> Cause:
    return required("metadata.name", "name or generateName is required")
