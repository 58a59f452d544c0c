"""`nsm dig`: a name asked for from inside a Pod; needs no tools there. One server, or the Pod's own in order.

As dig does, it takes the name as it stands; `--search` completes it as the Pod's C library would.
"""

import ipaddress
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from cli import dnswire, labs, pods
from cli.dnswire import Answer
from cli.options import Output
from cli.output import OutputFormat, print_json
from cli.problems import Problem

_NO_ANSWER = 9  # as dig says it
_NDOTS = 1

Ask = Callable[[str, str], Answer]  # (name, server)


class ResolvConf(msgspec.Struct, frozen=True, kw_only=True):
    """What /etc/resolv.conf says, as far as it matters here."""

    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    ndots: int = _NDOTS


def dig(  # noqa: PLR0917 options of a command
    pod: Annotated[
        str, typer.Argument(metavar=pods.METAVAR, help="The Pod to ask from.", show_default=False)
    ],
    words: Annotated[
        list[str],
        typer.Argument(metavar="[@SERVER] NAME", help="What to ask, and whom.", show_default=False),
    ],
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", help="The Pod's namespace.")
    ] = "default",
    kind: Annotated[str, typer.Option("--type", "-t", help="A, AAAA, SRV, TXT …")] = "A",
    over_tcp: Annotated[bool, typer.Option("--tcp", help="TCP from the start.")] = False,
    search: Annotated[
        bool, typer.Option("--search", help="Complete the name by the Pod's search list.")
    ] = False,
    timeout: Annotated[str, typer.Option("--timeout", "-W", help="For each try.")] = "5s",
    tries: Annotated[int, typer.Option("--tries", min=1, help="Rounds over the servers.")] = 2,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Ask for a name in a Pod. Exit code 0: somebody answered, whatever it was; 9: nobody did."""
    server, name = _asked(words)
    kind = _type(kind)
    seconds = labs.duration_seconds(timeout)
    namespace, pod = pods.place_of(pod, namespace)
    inside = labs.Inside(namespace, pod)
    config = read_resolv_conf(inside.resolv_conf)
    servers = (server,) if server else config.servers
    if not servers:
        raise Problem(f"pod {namespace}/{pod} has no nameserver; name one: @ADDRESS", exit_code=2)

    def ask(one: str, whom: str) -> Answer:
        return dnswire.ask(one, kind, whom, over_tcp=over_tcp, timeout_seconds=seconds)

    def run() -> int:
        inside.enter()
        names = completed(name, config)
        asked = names if search else [name]
        is_short = not search and is_completed_first(name, config)
        return _tell(resolve(asked, servers, ask, tries=tries), output, is_short=is_short)

    sys.exit(labs.in_child(run))


def read_resolv_conf(path: Path) -> ResolvConf:
    """The servers, search list and ndots of a file. Raises Problem."""
    try:
        text = path.read_text()
    except OSError as exc:
        raise Problem(f"{path}: {exc.strerror}; is the Pod there still?") from exc
    found: dict[str, list[str]] = {"nameserver": [], "search": [], "options": []}
    for line in text.splitlines():
        word, *rest = line.split() or [""]
        if word in found:
            found[word] = rest if word == "search" else found[word] + rest
    ndots = [int(o[6:]) for o in found["options"] if re.fullmatch(r"ndots:\d+", o)]
    return ResolvConf(
        servers=tuple(found["nameserver"]),
        searches=tuple(found["search"]),
        ndots=ndots[-1] if ndots else _NDOTS,
    )


def completed(name: str, config: ResolvConf) -> list[str]:
    """The names a C library asks for, in its order."""
    if name.endswith("."):
        return [name]
    longer = [f"{name}.{suffix}" for suffix in config.searches]
    longer = [each for each in longer if dnswire.is_name(each)]
    return [name, *longer] if name.count(".") >= config.ndots else [*longer, name]


def is_completed_first(name: str, config: ResolvConf) -> bool:
    """Whether a C library tries the search list before the name as it stands."""
    return completed(name, config)[0] != name


def resolve(names: Sequence[str], servers: Sequence[str], ask: Ask, *, tries: int) -> list[Answer]:
    """Every answer on the way; the last one is what counts: the first with records, else the last name's."""
    answers: list[Answer] = []
    for name in names:
        answers += _until_answered(name, servers, ask, tries)
        if answers[-1].answers or not answers[-1].status:
            break
    return answers


def _until_answered(name: str, servers: Sequence[str], ask: Ask, tries: int) -> Iterable[Answer]:
    found = []
    for _ in range(tries):
        for server in servers:
            found.append(ask(name, server))
            if found[-1].status:
                return found
    return found


def _asked(words: Sequence[str]) -> tuple[str, str]:
    servers = [word[1:] for word in words if word.startswith("@")]
    names = [word for word in words if not word.startswith("@")]
    if len(names) != 1 or len(servers) > 1:
        raise Problem("write: nsm dig POD NAME, or nsm dig POD @SERVER NAME", exit_code=2)
    if not dnswire.is_name(names[0]):
        raise Problem(f"name {names[0]!r}: {dnswire.NAME_FORM}", exit_code=2)
    for server in servers:
        try:
            ipaddress.ip_address(server)
        except ValueError as exc:
            raise Problem(f"@{server}: a server is named by its address", exit_code=2) from exc
    return (servers[0] if servers else ""), names[0]


def _type(text: str) -> str:
    kind = text.upper()
    if not dnswire.is_type(kind):
        raise Problem(f"--type {kind}: no type of DNS record; such as A, AAAA, TXT", exit_code=2)
    return kind


def _tell(answers: Sequence[Answer], output: OutputFormat, *, is_short: bool = False) -> int:
    """`is_short`: the Pod's C library would have completed the name before it asked for it as it stands."""
    last = answers[-1]
    if output is OutputFormat.JSON:
        print_json(last)
        return 0 if last.status else _NO_ANSWER
    for answer in answers[:-1]:
        print(f"; {_summary(answer)}")
    for record in last.answers:
        print(f"{record.name} {record.ttl} {record.type} {record.data}")
    print(f"; {_summary(last)}")
    if is_short and last.status in ("NXDOMAIN", "REFUSED"):
        print("; asked for as it stands; --search completes it by the Pod's search list")
    return 0 if last.status else _NO_ANSWER


def _summary(answer: Answer) -> str:
    said = answer.status or answer.problem
    if answer.status == "NOERROR" and not answer.answers:
        said = "NOERROR, but no such record"
    asked = f"{answer.name} {answer.type} @{answer.server} {answer.transport}"
    return f"{asked}: {said} in {answer.milliseconds:.1f} ms"
