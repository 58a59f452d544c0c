"""`nsm lab misbehave` and `nsm lab behave`: what the lab's API server shall do wrong, and when it ends."""

from typing import Annotated, Any, get_args

import msgspec
import typer

from cli import kube, labs
from cli.problems import Problem
from lab.api.client import Client
from lab.api.misbehaving import Fault, What

Obj = dict[str, Any]

_WHATS = ", ".join(get_args(What))


def misbehave(
    fault: Annotated[
        str | None,
        typer.Argument(help="What goes wrong: NAME, or JSON.", show_default=False),
    ] = None,
    *,
    kind: Annotated[str, typer.Option("--kind", help="Only of these: pods, nodes …")] = "",
    verb: Annotated[
        str, typer.Option("--verb", help="Only then: list, page, watch, get or write.")
    ] = "",
    times: Annotated[int, typer.Option("--times", help="How often; 0: until `behave`.")] = 1,
    lasts: Annotated[
        str, typer.Option("--lasts", help="Ends by itself after this time: 30s, 1m.")
    ] = "",
    code: Annotated[int, typer.Option("--code", help="Of refuse and error.")] = 500,
    seconds: Annotated[
        float, typer.Option("--seconds", help="Of hang, slow, jump; Retry-After of refuse.")
    ] = 0.0,
    back: Annotated[int, typer.Option("--back", help="Versions; of stale and restore.")] = 1,
    token: Annotated[str, typer.Option("--token", help="Of rotate.")] = "",
) -> None:
    if fault is None:
        _tell(kube.run(lambda client: client.faults()))
        return
    if fault.lstrip().startswith("{"):
        wanted = _read(fault)
    else:
        given: Obj = {"kind": kind, "verb": verb, "times": times, "code": code}
        given |= {"seconds": seconds, "back": back, "token": token}
        given["lasts"] = labs.duration_seconds(lasts) if lasts else 0.0
        wanted = _fault({"what": fault} | given)
    body = msgspec.to_builtins(wanted)

    async def act(client: Client) -> list[Obj]:
        return await client.misbehave(body)

    _tell(kube.run(act))


def behave() -> None:
    """End everything that was to go wrong with the lab's API server."""

    async def act(client: Client) -> list[Obj]:
        await client.behave()
        return await client.faults()

    _tell(kube.run(act))


def _read(text: str) -> Fault:
    try:
        return _fault(msgspec.json.decode(text))
    except msgspec.DecodeError as exc:
        raise Problem(f"{text}: no JSON: {exc}", exit_code=2) from exc


def _fault(fields: object) -> Fault:
    try:
        return msgspec.convert(fields, Fault)
    except msgspec.ValidationError as exc:
        raise Problem(f"{exc}; what may go wrong: {_WHATS}", exit_code=2) from exc


def _tell(to_come: list[Obj]) -> None:
    if not to_come:
        print("nothing is to go wrong any more")
    for each in to_come:
        fault = msgspec.convert(each, Fault)
        often = f"{fault.times} more" if fault.times else ""
        ends = f"for {fault.lasts:g} s at most" if fault.lasts else ""
        often = ", ".join(filter(None, (often, ends))) or "until `nsm lab behave`"
        about = " ".join(word for word in (fault.verb, fault.kind) if word) or "any request"
        print(f"{fault.what}: {about}, {often}")


def _help() -> str:
    """The faults in the words of the place that makes them."""
    _, _, listed = (Fault.__doc__ or "").partition("\n\n")
    lines = "\n".join(line.strip() for line in listed.strip().splitlines())
    return (
        "Let the lab's API server misbehave; without an argument, tell what is still to go wrong.\n\n"
        "Nothing that was written is harmed, but by restore. Several faults wait for their turn side by side; "
        "`nsm lab behave` ends them.\n\n\b\n"
        f"{lines}\n\n\b\n"
        "nsm lab misbehave refuse --code 429 --seconds 5 --verb watch --times 3\n"
        "nsm lab misbehave drop --times 0 --lasts 1m\n"
        """nsm lab misbehave '{"what": "mute", "kind": "pods"}'"""
    )


misbehave.__doc__ = _help()
