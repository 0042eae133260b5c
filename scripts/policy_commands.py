"""`sluicegate check` and `sluicegate policy test|explain|judge`: what a configuration and its policies would do.

None of them needs a running gateway. Commands are analysed and judged by the code that the data path runs.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from rich.table import Table
from rich.text import Text

import guard.config
from guard.documents import ConfigError, Problem, read
from guard.enforce import PolicySet, RuleTrace
from guard.enforce.policyset import load_bundle
from guard.enforce.testing import SUFFIX, Report, beside, run_tests
from protocols.contract import (
    HTTP_PROTOCOLS,
    Action,
    Analysis,
    Decision,
    Effect,
    Principal,
    ProtocolName,
    Resource,
    SessionFacts,
)
from scripts.policy_help import CHECK_EPILOG, EXPLAIN_EPILOG, JUDGE_EPILOG, POLICY_EPILOG
from scripts.terminal import console

POLICIES = Path(__file__).resolve().parent.parent / "policies"
_IDENTITIES = {"admin": ("platform", "oncall", "security"), "analyst": ("analysts",), "agent": ("agents",)}
_JUDGED: tuple[str, ...] = get_args(ProtocolName)
_USAGE = 2  # exit code: wrong usage
_COLOURS = {"allow": "green", "hold": "yellow", "deny": "red", "terminate": "bold red", "alert": "magenta"}


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `check` and `policy`."""
    check = subparsers.add_parser(
        "check",
        help="find every problem in a configuration without starting",
        epilog=CHECK_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument("file", type=Path, metavar="FILE", help="a gateway configuration, or a policy bundle")
    check.add_argument("--json", action="store_true", help="one JSON object for each problem")
    check.set_defaults(run=run_check)

    policy = subparsers.add_parser(
        "policy",
        help="test and explain policies",
        epilog=POLICY_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = policy.add_subparsers(dest="policy_command", metavar="COMMAND", required=True)
    _register_test(commands)
    _register_explain(commands)
    _register_judge(commands)


def _register_test(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    test = commands.add_parser("test", help="run the tests that lie beside policies")
    test.add_argument(
        "files",
        nargs="*",
        type=Path,
        metavar="FILE",
        help=f"a bundle, its *{SUFFIX}, or a folder of them; none: the policies shipped here",
    )
    test.add_argument("--json", action="store_true", help="one JSON object for each test")
    test.set_defaults(run=run_test)


def _register_explain(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    explain = commands.add_parser(
        "explain",
        help="which rule decides about a command, and why",
        epilog=EXPLAIN_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_session_arguments(explain)
    explain.add_argument(
        "text", metavar="COMMAND", help="the command as a client would send it; of a request `METHOD URL`"
    )
    explain.add_argument("--all", action="store_true", help="also show the rules that say nothing about it")
    explain.add_argument("--json", action="store_true", help="one JSON object")
    explain.set_defaults(run=run_explain)


def _register_judge(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    judge = commands.add_parser(
        "judge",
        help="judge commands from standard input, one JSON object a line",
        epilog=JUDGE_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_session_arguments(judge)
    judge.add_argument("--json", action="store_true", help="answer in JSON lines (otherwise a readable line each)")
    judge.set_defaults(run=run_judge)


def _add_session_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--policy", action="append", required=True, type=Path, metavar="FILE", help="a bundle; may be repeated"
    )
    parser.add_argument("--protocol", choices=_JUDGED, default="postgres", help="default: postgres")
    parser.add_argument(
        "--as",
        dest="identity",
        default="analyst",
        metavar="IDENTITY",
        help="SUBJECT or SUBJECT:GROUP,GROUP; admin, analyst and agent have the demo's groups (default: analyst)",
    )
    parser.add_argument(
        "--claim", action="append", default=[], metavar="NAME=VALUE", help="an attribute of the identity"
    )
    parser.add_argument(
        "--issuer", default="https://issuer.test", metavar="URL", help="who vouches for the identity (`who: {issuers}`)"
    )
    parser.add_argument("--resource", default="any", metavar="NAME", help="the resource's name")
    parser.add_argument("--label", action="append", default=[], metavar="NAME=VALUE", help="a label of the resource")
    parser.add_argument("--database", default="", metavar="NAME", help="the database asked for")
    parser.add_argument("--address", default="127.0.0.1", help="the client's address (default: 127.0.0.1)")
    parser.add_argument(
        "--catalog",
        metavar="DSN",
        help="a database to look names up in; without it, named relations are taken for plain tables",
    )


def run_check(args: argparse.Namespace) -> int:
    """Print every problem; 1 where one of them stops a start."""
    problems = _problems(args.file)
    errors = [problem for problem in problems if not problem.warning]
    for problem in problems:
        print(json.dumps(_as_json(problem)) if args.json else problem)
    if not args.json:
        kinds = [(len(errors), "problem"), (len(problems) - len(errors), "warning")]
        found = " and ".join(f"{count} {word}{'s' if count > 1 else ''}" for count, word in kinds if count)
        print(f"{args.file}: {found or 'no problems'}", file=sys.stderr)
    return 1 if errors else 0


def _problems(path: Path) -> list[Problem]:
    try:
        data = read(path).data
        if isinstance(data, dict) and "rules" in data and "listeners" not in data:
            load_bundle(path)
            return []
    except ConfigError as error:
        return error.problems
    return guard.config.check(path, secrets=True)


def _as_json(problem: Problem) -> dict[str, Any]:
    severity = "warning" if problem.warning else "error"
    return {
        "file": problem.file,
        "line": problem.line,
        "column": problem.column,
        "severity": severity,
        "message": problem.message,
    }


def run_test(args: argparse.Namespace) -> int:
    """Run tests; 1 where one fails or a file cannot be read, or where there is none."""
    # imported here: `check` should not wait for a SQL parser
    from scripts.policy_offline import analyse_request, analyse_text

    failed = passed = 0
    files, missing = _test_files(args.files or [POLICIES])
    for problem in missing:
        failed += 1
        print(json.dumps({"problem": problem, "passed": False}) if args.json else f"{problem}")
    for path in files:
        try:
            report = run_tests(path, analyse_text, analyse_request)
        except ConfigError as error:
            failed += 1
            for one in error.problems:
                print(json.dumps(_as_json(one)) if args.json else one)
            continue
        bad = sum(1 for result in report.results if result.problem)
        failed += bad
        passed += len(report.results) - bad
        _print_report(path, report, bad, as_json=args.json)
    if not args.json:
        print(f"{passed} passed, {failed} failed")
    return 0 if passed and not failed else 1


def _print_report(path: Path, report: Report, bad: int, *, as_json: bool) -> None:
    for result in report.results:
        if as_json:
            answer = {"file": result.file, "line": result.line, "name": result.name, "passed": not result.problem}
            print(json.dumps({**answer, "problem": result.problem}))
        elif result.problem:
            print(f"{result.file}:{result.line}: {result.name}: {result.problem}")
    if not as_json:
        untested = f"; never asked: {', '.join(report.untested)}" if report.untested else ""
        print(
            f"{'FAIL' if bad else 'ok  '} {path.name}: {len(report.results) - bad} of {len(report.results)}{untested}"
        )


def _test_files(given: Sequence[Path]) -> tuple[list[Path], list[str]]:
    files, missing = [], []
    for path in given:
        if path.is_dir():
            found = sorted(path.glob(f"*{SUFFIX}"))
            files += found
            if not found:
                missing.append(f"{path}: no *{SUFFIX} in this folder")
            continue
        tests = path if path.name.endswith(SUFFIX) else beside(path)
        if tests.is_file():
            files.append(tests)
        else:
            missing.append(f"{path}: no tests beside it; write {tests.name}")
    return files, missing


def run_explain(args: argparse.Namespace) -> int:
    """Print which rule decides about one command; 2 where an option makes no sense."""
    from addons.catalog_client import CatalogError
    from scripts.policy_offline import DsnCatalog, analyse_request, analyse_text

    now = time.time()
    try:
        principal, resource = _asked(args)
    except _Usage as error:
        print(error, file=sys.stderr)
        return _USAGE
    try:
        policies = PolicySet.load(args.policy)
        facts = SessionFacts(client_address=args.address)
        session = policies.for_session(principal, resource, facts)
        if args.protocol in HTTP_PROTOCOLS:
            analysis = analyse_request(session, args.text, facts, now)
        else:
            catalog = DsnCatalog(args.catalog, args.protocol).since(time.monotonic())
            analysis = analyse_text(args.protocol, args.text, catalog, database=args.database)
    except (ConfigError, ValueError, CatalogError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    decision = session.decide(analysis, now=now, facts=facts)
    traces = session.explain(analysis, now, facts)
    if args.json:
        print(json.dumps(_explanation(analysis, session.effects(analysis), decision, traces)))
    else:
        shown = [one for one in traces if args.all or one.outcome != "silent"]
        effects = session.effects(analysis)
        _print_explanation(principal, resource, analysis, effects, decision, shown, len(traces) - len(shown))
    return 0


def _explanation(
    analysis: Analysis, effects: frozenset[Effect], decision: Decision, traces: Sequence[RuleTrace]
) -> dict[str, Any]:
    facts = {name: list(values) for name, values in sorted(analysis.facts.items())}
    return {
        "decision": decision.action.label,
        "rule": decision.rule,
        "why": decision.why,
        "alerts": list(decision.alerts),
        "effects": sorted(effects),
        "reads": list(analysis.reads),
        "writes": list(analysis.writes),
        "where": analysis.where.value,
        "unknown": analysis.unknown,
        **({"facts": facts} if facts else {}),
        "rules": [{"rule": one.rule, "verb": one.verb, "outcome": one.outcome, "reason": one.reason} for one in traces],
    }


def _print_explanation(
    principal: Principal,
    resource: Resource,
    analysis: Analysis,
    effects: frozenset[Effect],
    decision: Decision,
    traces: Sequence[RuleTrace],
    hidden: int,
) -> None:
    screen = console()
    label = decision.action.label
    screen.print(Text(label.upper(), style=_COLOURS[label]) + Text(f"  {decision.why}", style="default"))
    if decision.action is Action.HOLD and decision.hold is not None:
        who = ", ".join(sorted(decision.hold.approver_groups | decision.hold.approver_subjects)) or "any approver"
        issuers = sorted(decision.hold.approver_issuers)
        whose = f" ({', '.join(issuers)})" if issuers else ""
        within = f"within {decision.hold.expires_s:g} s"
        screen.print(Text(f"      released by {decision.hold.count} of: {who}{whose}, {within}"))
    groups = ", ".join(sorted(principal.groups)) or "none"
    facts = Table.grid(padding=(0, 2))
    for name, value in [
        ("who", f"{principal.subject} (groups: {groups})"),
        ("resource", resource.name),
        ("command", analysis.kind),
        ("effects", ", ".join(sorted(effects)) or "none"),
        ("reads", ", ".join(analysis.reads) or ("" if analysis.facts else "nothing")),
        ("writes", ", ".join(analysis.writes) or ("" if analysis.facts else "nothing")),
        ("filter", "" if analysis.facts else analysis.where.value),
        ("facts", "\n".join(f"{name}: {', '.join(values)}" for name, values in sorted(analysis.facts.items()))),
        ("not proved" if analysis.unknown else "note", analysis.why),
        ("alerts", ", ".join(decision.alerts)),
    ]:
        if value:
            facts.add_row(Text(name, style="dim"), Text(value))
    screen.print(facts)
    rules = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("", "rule", "verb", "because"):
        rules.add_column(column)
    for one in traces:
        mark = "->" if one.outcome == "decides" else ""
        style = "dim" if one.outcome == "silent" else ""
        verb = Text(one.verb, style=_COLOURS.get(one.verb, ""))
        rules.add_row(mark, Text(one.rule, style=style), verb, Text(one.reason, style=style))
    if traces:
        screen.print(rules)
    if hidden:
        screen.print(Text(f"{hidden} more rules say nothing about it (--all shows why)", style="dim"))


def run_judge(args: argparse.Namespace) -> int:
    """Judge commands from standard input until it ends."""
    from addons.catalog_client import CatalogError
    from scripts.policy_offline import DsnCatalog, Judge, LineJudge, judge_stream

    try:
        principal, resource = _asked(args)
    except _Usage as error:
        print(error, file=sys.stderr)
        return _USAGE
    try:
        policies = PolicySet.load(args.policy)
        facts = SessionFacts(client_address=args.address)
        session = policies.for_session(principal, resource, facts)
        judge: LineJudge
        if args.protocol in HTTP_PROTOCOLS:
            from scripts.policy_requests import RequestJudge

            judge = RequestJudge(session, facts)
        else:
            judge = Judge(args.protocol)
        catalog = DsnCatalog(args.catalog, args.protocol)
        catalog.since(time.monotonic())  # a database that cannot be reached is an error of the run, not of a line
    except (ConfigError, ValueError, CatalogError, OSError) as error:
        print(error, file=sys.stderr)
        return 1

    def decide(analysis: Analysis) -> Decision:
        return session.decide(analysis, now=time.time(), facts=facts)

    for answer in judge_stream(sys.stdin.buffer, judge, decide, catalog):
        if args.json:
            line = json.dumps(answer)
        else:
            line = f"{answer['id']}\t{answer['decision']}\t{answer.get('rule', '')}\t{answer['why']}"
        print(line, flush=True)
    return 0


class _Usage(ValueError):
    """An option that makes no sense; the text says what is expected."""


def _asked(args: argparse.Namespace) -> tuple[Principal, Resource]:
    """Who asks, and for what. Raises `_Usage`."""
    if args.protocol in HTTP_PROTOCOLS and (args.catalog is not None or args.database):
        raise _Usage(f"--catalog, --database: requests of {args.protocol} have neither")
    subject, colon, groups = args.identity.rpartition(":") if ":" in args.identity else (args.identity, "", "")
    listed = tuple(name for name in groups.split(",") if name) if colon else _IDENTITIES.get(subject, ())
    if not subject:
        raise _Usage("--as: expected SUBJECT or SUBJECT:GROUP,GROUP")
    try:
        ipaddress.ip_address(args.address)
    except ValueError:
        raise _Usage(f"--address: `{args.address}` is no IP address") from None
    principal = Principal(subject, args.issuer, frozenset(listed), _pairs(args.claim, "--claim"))
    return principal, Resource(args.resource, args.protocol, _pairs(args.label, "--label"), args.database)


def _pairs(given: Sequence[str], option: str) -> dict[str, str]:
    pairs = [one.partition("=") for one in given]
    if any(not name or not equals for name, equals, _ in pairs):
        raise _Usage(f"{option}: expected NAME=VALUE")
    return {name: value for name, _, value in pairs}
