"""The commands that talk to a running gateway: who is connected, what was done, what waits, and how to stop it."""

from __future__ import annotations

import argparse
import difflib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from guard.control.client import ControlClient
from guard.control.wire import ControlError
from scripts import control_display as display
from scripts import issuer_health, removed
from scripts.control_connection import HELP, UsageError, add_options, talking
from scripts.player import Player
from scripts.terminal import clean, console, parse_when, print_json

Work = Callable[[argparse.Namespace, ControlClient], int]
Subparsers = argparse._SubParsersAction  # argparse has no public name for what add_subparsers returns

DECISIONS = ("allow", "deny", "hold", "terminate")
STATUSES = ("pending", "approved", "denied", "expired", "withdrawn", "spent", "all")


def register(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Add the commands of this module."""
    _add(subparsers, "status", "how the gateway is", _status)
    _add(subparsers, "whoami", "who you are to the gateway, and which roles you have", _whoami)
    _add(
        subparsers, "reload", "load the policies again; the old ones stay in force if the new ones are broken", _reload
    )
    _add_evidence(subparsers)
    _add_approvals(subparsers)
    _add_containment(subparsers)


def _add(
    subparsers: Subparsers[argparse.ArgumentParser], name: str, text: str, work: Work, example: str = ""
) -> argparse.ArgumentParser:
    epilog = (f"examples:\n{example}\n\n" if example else "") + HELP
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=text,
        description=text,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # `--token x` must not mean `--token-file x`
    )
    add_options(parser)
    parser.set_defaults(run=talking(work))
    return parser


def _show(args: argparse.Namespace, value: Any, render: Callable[[Any], None]) -> int:
    if args.json:
        print_json(value)
    else:
        render(value)
    return 0


def _show_rows(args: argparse.Namespace, rows: Any, render: Callable[[Any], None]) -> int:
    """As `_show`. What was cut off at `--limit` must not look complete."""
    code = _show(args, rows, render)
    if len(rows) >= args.limit:
        _note(f"these are the newest {args.limit}, and there may be more: --limit takes a larger number")
    return code


def _note(text: str) -> None:
    console(stderr=True).print(clean(text), style="yellow", markup=False)


# -- the gateway


def _status(args: argparse.Namespace, client: ControlClient) -> int:
    return _show(args, client.call("status"), lambda value: display.facts(issuer_health.told(value)))


def _whoami(args: argparse.Namespace, client: ControlClient) -> int:
    return _show(args, client.call("whoami"), display.facts)


def _reload(args: argparse.Namespace, client: ControlClient) -> int:
    return _show(args, client.call("policy.reload"), display.facts)


# -- evidence


def _add_evidence(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    sessions = _add(subparsers, "sessions", "list sessions, newest first", _sessions, "  sluicegate sessions --live")
    sessions.add_argument("--live", action="store_true", default=None, help="only those that are connected now")
    sessions.add_argument(
        "--everywhere",
        action="store_true",
        default=None,
        help="the live ones, also on other gateways that share the state store",
    )
    sessions.add_argument("--subject", help="of this identity")
    sessions.add_argument("--resource", help="on this resource")
    _add_window(sessions)

    show = _add(subparsers, "show", "one session with its commands", _show_session)
    show.add_argument("session", metavar="SESSION")
    show.add_argument("--after", type=int, metavar="SEQ", help="the next page of a long session")
    _add_damaged(show)

    replay = _add(
        subparsers,
        "replay",
        "play a session as the client saw it, at the recorded speed",
        _replay,
        "  sluicegate replay 01hx --speed 10\n  sluicegate replay 01hx --instant --json",
    )
    replay.add_argument("session", metavar="SESSION")
    replay.add_argument("--speed", type=_speed, default=1.0, metavar="N", help="N times faster (default 1)")
    replay.add_argument("--instant", action="store_true", help="without any pauses")
    replay.add_argument(
        "--max-pause", type=_speed, default=3.0, metavar="S", help="longest pause in seconds (default 3)"
    )

    replay.add_argument("--cast", type=Path, metavar="FILE", help="write a recorded terminal as asciicast v2 instead")
    replay.add_argument(
        "--number", type=int, metavar="N", help="with --cast: of which command, where there are several"
    )
    _add_damaged(replay)

    search = _add(
        subparsers,
        "search",
        "find commands, newest first; every filter must match",
        _search,
        "  sluicegate search --relation public.customers --since 24h\n"
        "  sluicegate search --subject ci-job@shop --decision deny --json\n"
        "  sluicegate search --refused --since 24h",
    )
    search.add_argument("--subject", help="issued by this identity")
    search.add_argument("--resource", help="on this resource")
    search.add_argument("--relation", metavar="SCHEMA.NAME", help="reads or writes this relation")
    search.add_argument("--effect", help="has this effect, e.g. data.delete, or one of a family: ddl.*")
    search.add_argument("--decision", choices=DECISIONS, help="was decided so")
    search.add_argument("--rule", help="was decided by this rule")
    search.add_argument("--text", help="contains this text")
    search.add_argument(
        "--refused",
        action="store_true",
        help="logins that were refused, not commands; takes --subject (proven or claimed) and --resource",
    )
    _add_window(search)

    incident = _add(
        subparsers,
        "incident",
        "who issued commands, what data was accessed, did it comply: one identity on one screen",
        _incident,
        "  sluicegate incident ci-job@shop --since 7d",
    )
    incident.add_argument("subject", metavar="SUBJECT")
    _add_window(incident, limit=50)


def _add_window(parser: argparse.ArgumentParser, limit: int = 100) -> None:
    parser.add_argument("--since", metavar="WHEN", help="from then on: 2h, 30m, 7d, or 2030-01-31T08:00")
    parser.add_argument("--until", metavar="WHEN", help="before then")
    _add_limit(parser, limit)
    _add_damaged(parser)


def _add_limit(parser: argparse.ArgumentParser, limit: int = 100) -> None:
    text = f"at most so many (default {limit})"
    parser.add_argument("--limit", type=_count, default=limit, metavar="NUMBER", help=text)


def _add_damaged(parser: argparse.ArgumentParser) -> None:
    text = "answer from a damaged journal too, as far as it goes"
    parser.add_argument("--damaged-ok", action="store_true", default=None, help=text)


def _window(args: argparse.Namespace) -> dict[str, Any]:
    now = time.time()
    try:
        return {
            "since": None if args.since is None else parse_when(args.since, now),
            "until": None if args.until is None else parse_when(args.until, now),
            "limit": args.limit,
            "damaged_ok": args.damaged_ok,
        }
    except ValueError as error:
        raise UsageError(str(error)) from None


def _speed(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"expected a number greater than 0, not `{text}`")
    return value


def _count(text: str) -> int:
    if not text.isdecimal() or not text.isascii() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number greater than 0, not `{text}`")
    return int(text)


def _effect(text: str) -> None:
    """One that exists: of a misspelt one nothing is ever found, which reads as if nothing had happened."""
    from protocols.contract import Effect  # here: who lists approvals does not wait for it

    known = {effect.value for effect in Effect}
    families = {f"{value.partition('.')[0]}.*" for value in known if "." in value}
    if text in known or text in families:
        return
    near = difflib.get_close_matches(text, sorted(known | families), 3)
    hint = f"did you mean {' or '.join(near)}?" if near else "docs/reference/policy.md lists them"
    raise UsageError(f"there is no effect `{text}`: {hint}")


def _sessions(args: argparse.Namespace, client: ControlClient) -> int:
    whose = {"subject": args.subject, "resource": args.resource, "everywhere": args.everywhere}
    found = client.call("sessions.list", **whose, live=args.live, **_window(args))
    return _show_rows(args, found, display.sessions)


def _show_session(args: argparse.Namespace, client: ControlClient) -> int:
    return _show(args, client.call("sessions.show", **_page(args)), display.session)


def _search(args: argparse.Namespace, client: ControlClient) -> int:
    filters = {name: getattr(args, name) for name in ("relation", "effect", "decision", "rule", "text")}
    whose = {"subject": args.subject, "resource": args.resource, **_window(args)}
    if args.effect is not None:
        _effect(args.effect)
    if not args.refused:
        found = client.call("search", **filters, **whose)
        return _show_rows(args, found, lambda rows: _commands_and_gaps(args, client, rows))
    if meaningless := [f"--{name}" for name, value in filters.items() if value is not None]:
        raise UsageError(
            f"{', '.join(meaningless)}: a refused login has none; --refused takes --subject and --resource"
        )
    return _show_rows(args, client.call("refusals", **whose), display.refusals)


def _commands_and_gaps(args: argparse.Namespace, client: ControlClient, rows: Any) -> None:
    """An answer that retention made shorter must not look complete."""
    display.commands(rows)
    try:
        gone = client.call("retention.removed", since=_window(args)["since"], until=_window(args)["until"])
    except ControlError as error:
        said = f"whether retention removed any of this cannot be told: {clean(error.message)}"
        _note(said)
        return
    removed.tell(gone)


def _page(args: argparse.Namespace) -> dict[str, Any]:
    return {"session": args.session, "after": args.after, "damaged_ok": args.damaged_ok}


def _pages(args: argparse.Namespace, client: ControlClient) -> Iterator[Any]:
    after: int | None = None
    while True:
        page = client.call("sessions.replay", session=args.session, after=after, damaged_ok=args.damaged_ok)
        yield page
        after = page["next"]
        if after is None:
            return


def _cast(args: argparse.Namespace, client: ControlClient) -> int:
    """Raises ControlError."""
    found: dict[int, list[str]] = {}
    for page in _pages(args, client):
        for event in page["events"]:
            if event["kind"] == "cast":
                found.setdefault(int(event.get("n") or 0), []).append(str(event.get("cast") or ""))
    if args.number is not None:
        found = {number: lines for number, lines in found.items() if number == args.number}
    if len(found) != 1:
        numbers = ", ".join(map(str, sorted(found)))
        why = f"there are several terminals: give --number ({numbers})" if found else "no terminal is recorded there"
        raise ControlError("not_found", why)
    (lines,) = found.values()
    try:
        # what was typed and shown is for who asked for it, and for nobody else on this machine
        descriptor = os.open(args.cast, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise UsageError(f"cannot write `{args.cast}`: {error.strerror}") from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.writelines(lines)
    return 0


def _replay(args: argparse.Namespace, client: ControlClient) -> int:
    if args.cast is not None:
        return _cast(args, client)
    player = Player(
        speed=float("inf") if args.instant or args.json else args.speed, max_pause=args.max_pause, json=args.json
    )
    for page in _pages(args, client):
        player.play(page)
    return 0


def _incident(args: argparse.Namespace, client: ControlClient) -> int:
    report = client.call("incident", subject=args.subject, **_window(args))
    code = _show(args, report, display.incident)
    if cut := [name for name, key in _CUT.items() if len(report.get(key) or ()) >= args.limit]:
        _note(f"of {', '.join(cut)} these are the newest {args.limit}: --limit takes a larger number; sums count all")
    return code


_CUT = {"sessions": "sessions", "what was stopped or held": "not_allowed", "refused logins": "refused"}


# -- approvals


def _add_approvals(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    text = "commands that wait for a human"
    approvals = subparsers.add_parser(
        "approvals", help=text, description=text, epilog=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = approvals.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = _add(actions, "list", "what waits, newest first", _approvals_list)
    listing.add_argument("--status", default="pending", choices=STATUSES, help="default: pending")
    _add_limit(listing)
    show = _add(actions, "show", "one request: the exact statement that would run", _approvals_show)
    show.add_argument("id", metavar="ID")
    approve = _add(actions, "approve", "let the command run, once", _approve)
    approve.add_argument("id", metavar="ID")
    approve.add_argument("--reason", help="why, for the record")
    deny = _add(actions, "deny", "refuse the command", _deny)
    deny.add_argument("id", metavar="ID")
    deny.add_argument("--reason", required=True, help="why: the person who asked reads it")


def _approvals_list(args: argparse.Namespace, client: ControlClient) -> int:
    found = client.call("approvals.list", status=args.status, limit=args.limit)
    return _show_rows(args, found, display.approvals)


def _approvals_show(args: argparse.Namespace, client: ControlClient) -> int:
    return _show(args, client.call("approvals.show", id=args.id), display.approval)


def _approve(args: argparse.Namespace, client: ControlClient) -> int:
    return _show(args, client.call("approvals.approve", id=args.id, reason=args.reason), display.vote)


def _deny(args: argparse.Namespace, client: ControlClient) -> int:
    return _show(args, client.call("approvals.deny", id=args.id, reason=args.reason), display.vote)


# -- containment


def _add_containment(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    contain = _add(
        subparsers,
        "contain",
        "cut every live session of an identity on this gateway, and keep it out until released",
        _contain,
        '  sluicegate contain ci-job@shop --reason "credential found in a public repository"',
    )
    contain.add_argument("subject", metavar="SUBJECT")
    contain.add_argument("--reason", required=True, help="why, for the record")
    release = _add(subparsers, "release", "let a contained identity in again", _release)
    release.add_argument("subject", metavar="SUBJECT")
    _add(subparsers, "contained", "who is kept out, by whom and why", _contained)
    revoke = _add(subparsers, "revoke", "refuse one token for good, and end what it opened", _revoke)
    revoke.add_argument("token_id", metavar="TOKEN_ID", help="as `sluicegate sessions` shows it")
    revoke.add_argument("--reason", help="why, for the record")
    terminate = _add(subparsers, "terminate", "end one live session", _terminate)
    terminate.add_argument("session", metavar="SESSION")
    terminate.add_argument("--reason", help="why, for the record; the client reads it")


def _contain(args: argparse.Namespace, client: ControlClient) -> int:
    done = client.call("contain", subject=args.subject, reason=args.reason)
    code = _show(args, done, display.facts)
    if not done.get("ended"):
        _note(
            "no session of this identity was live: "
            f"`sluicegate sessions --subject {args.subject}`, letter by letter, shows whether it was ever here"
        )
    return code


def _release(args: argparse.Namespace, client: ControlClient) -> int:
    return _show(args, client.call("release", subject=args.subject), display.facts)


def _contained(args: argparse.Namespace, client: ControlClient) -> int:
    return _show(args, client.call("contained"), display.contained)


def _revoke(args: argparse.Namespace, client: ControlClient) -> int:
    done = client.call("revoke", token_id=args.token_id, reason=args.reason)
    code = _show(args, done, display.facts)
    if not done.get("ended"):
        _note("no live session came with this token; `sluicegate sessions` shows which tokens were used")
    return code


def _terminate(args: argparse.Namespace, client: ControlClient) -> int:
    return _show(args, client.call("sessions.terminate", session=args.session, reason=args.reason), display.facts)


# what other modules of commands of this kind use
add_command, add_window, window, show_rows = _add, _add_window, _window, _show_rows
