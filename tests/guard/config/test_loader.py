"""`load` gives a Config or all problems; `check` gives the problems and the warnings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from guard.config import Config, ConfigError, check, load
from protocols.contract import Resource
from tests.guard.config.conftest import BASE, Write

# a value that stands for a secret in a wrong place: no problem may ever repeat it
SECRET = "hunter2-hunter2"


def messages(path: Path) -> list[str]:
    return [str(problem).removeprefix(f"{path}:") for problem in check(path)]


def test_defaults_and_relative_paths(write: Any, tmp_path: Path) -> None:
    path = write()
    config = load(path)
    assert check(path) == []
    assert config.path == path
    assert config.state_dir == tmp_path / "var"
    assert config.policies == (tmp_path / "policy.yaml",)
    assert config.listeners[0].host, config.listeners[0].port == ("127.0.0.1", 6432)
    assert config.listeners[0].tls.mode == "required"
    assert config.resources[0].tls.mode == "verify-full"
    assert config.resources[0].catalog.max_age == 1.0
    assert config.issuers[0].algorithms == ("RS256", "ES256")
    assert config.limits.inspect_max_bytes == 16 * 1024 * 1024
    assert config.roles.approver.groups == ()
    assert config.resources[0].as_resource() == Resource("shop", "postgres", {"env": "prod"}, "shop")
    assert config.resource("shop") is config.resources[0]
    with pytest.raises(KeyError):
        config.resource("other")


def test_a_config_cannot_be_changed(write: Any) -> None:
    config = load(write())
    with pytest.raises(ValidationError):
        config.state_dir = Path("/")
    with pytest.raises(ValidationError):
        config.listeners[0].resource = "other"


def test_every_problem_in_one_run_configuration_and_policies(write: Any, tmp_path: Path) -> None:
    path = write(
        "    resource: shop\n",
        "    resorce: shop\n    tls: {mode: of}\n",
        policy="version: 1\nname: x\ndescription: y\nrules:\n  - {id: a, description: b, allow: [data.selct]}\n",
    )
    assert [str(problem).removeprefix(f"{tmp_path}/") for problem in check(path)] == [
        "gateway.yaml:3:5: `resource` is required here",
        "gateway.yaml:6:5: unknown key `resorce`; did you mean `resource`?",
        "gateway.yaml:7:17: `of` is not known here; did you mean `off`?; expected one of: required, optional, off",
        "policy.yaml:5:37: `data.selct` is no effect; did you mean `data.select`?",
    ]
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert len(caught.value.problems) == 4


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("version: 1\n", "version: 2\n", 1, "expected one of: 1"),
        ("version: 1\n", "version: 1\npath: x\n", 2, "unknown key `path`"),
        ("version: 1\n", "version: 1\nlimits: {max_connections: '5'}\n", 2, "whole number"),
        ("version: 1\n", "version: 1\nlimits: {max_connections: true}\n", 2, "whole number"),
        ("version: 1\n", "version: 1\nlimits: {auth_timeout: 0}\n", 2, "greater than 0"),
        ("version: 1\n", "version: 1\nlimits:\n", 2, "expected a mapping"),
        ("version: 1\n", "version: 1\nrecord: {durability: maybe}\n", 2, "write, strict"),
        ("version: 1\n", "version: 1\nroles: {aprover: {groups: [a]}}\n", 2, "did you mean `approver`"),
        ("version: 1\n", "version: 1\nroles: {approver: {groups: oncall}}\n", 2, "expected a list"),
        ('"127.0.0.1:6432"', "6432", 5, "expected text"),
        ('"127.0.0.1:6432"', "':6432'", 5, "name the address"),
        ('"127.0.0.1:6432"', "'127.0.0.1:65536'", 5, "address:port"),
        ('"127.0.0.1:6432"', "'::1:6432'", 5, "address:port"),
        ('"127.0.0.1:6432"', "'[localhost]:6432'", 5, "IPv6"),
        ("    resource: shop\n", "    resource: shpo\n", 6, "no resource `shpo`; did you mean `shop`?"),
        ("protocol: postgres\n    listen", "protocol: redis\n    listen", 4, "`redis` is not known here"),
        ("name: shop\n", "name: 'a b'\n", 8, "expected a name"),
        ("provider: env, name: SHOP_DB_PASSWORD", "provider: env", 13, "`name` is required with `provider: env`"),
        ("provider: env,", "provider: none,", 13, "`name` means nothing with `provider: none`"),
        ("user: app, ", "", 8, "`credential.user` is required"),
        ("audience: sluicegate", "audience: ''", 15, "not empty"),
        ("audience: sluicegate", "audience: s, algorithms: [HS256]", 15, "`HS256` is not known here"),
        ("audience: sluicegate", "audience: s, leeway: 60", 15, "less than or equal to 30"),
        ("https://idp.example", "http://idp.example", 15, "expected https"),
        ("https://idp.example", "https://idp.example:x", 15, "expected a URL"),
        ("policies: [policy.yaml]", "policies: []", 16, "must not be empty"),
        ("policies: [policy.yaml]", "policies: [none.yaml]", 0, "cannot be read"),
        ("policies: [policy.yaml]", "policies: [policy.yaml, ./policy.yaml]", 16, "given twice"),
    ],
)
def test_a_wrong_value_stops_the_start(write: Any, old: str, new: str, line: int, words: str) -> None:
    path = write(old, new)
    found = check(path)
    assert any(words in problem.message and problem.line == line for problem in found), found
    with pytest.raises(ConfigError):
        load(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("provider: env, name: SHOP_DB_PASSWORD", f"password: {SECRET}"),
        ("provider: env, name: SHOP_DB_PASSWORD", f"provider: env, name: X, value: {SECRET}"),
        ("{user: app, provider: env, name: SHOP_DB_PASSWORD}", SECRET),
        ("{user: app, provider: env, name: SHOP_DB_PASSWORD}", f"[{SECRET}]"),
        ("provider: env, name: SHOP_DB_PASSWORD", f"provider: vault, address: 'https://u:{SECRET}@v', path: a"),
        (
            "provider: env, name: SHOP_DB_PASSWORD",
            f"provider: vault, address: 'https://v', path: a, key: b, token: {SECRET}",
        ),
        ("version: 1\n", f"version: 1\nnotify: [{{url: 'https://h', secret: {SECRET}}}]\n"),
        ("https://idp.example", f"https://user:{SECRET}@idp.example"),
    ],
)
def test_attack_28_a_secret_written_inline_is_refused_and_not_repeated(write: Any, old: str, new: str) -> None:
    found = messages(write(old, new))
    assert found
    assert SECRET not in "\n".join(found)


@pytest.mark.parametrize("name", ["password", "token", "secret"])
def test_whoever_writes_a_secret_is_told_where_it_belongs(write: Any, name: str) -> None:
    found = messages(write("user: app, ", f"user: app, {name}: {SECRET}, "))
    assert len(found) == 1
    assert "a secret is never written in this file" in found[0]


def test_secret_references_of_each_kind(write: Any, tmp_path: Path) -> None:
    config = load(
        write(
            "provider: env, name: SHOP_DB_PASSWORD",
            "provider: vault, address: 'https://vault:8200', path: secret/data/shop, key: password, "
            "token: {provider: file, path: token}",
        )
    )
    credential = config.resources[0].credential
    assert credential.path == "secret/data/shop"
    assert credential.token is not None
    assert credential.token.path == str(tmp_path / "token")


@pytest.mark.parametrize("mode", ["off", "optional"])
@pytest.mark.parametrize(
    ("address", "refused"),
    [
        ("0.0.0.0:1", True),
        ("[::]:1", True),
        ("10.0.0.5:1", True),
        ("db.example:1", True),
        ("127.0.0.1:1", False),
        ("127.8.8.8:1", False),
        ("[::1]:1", False),
        ("localhost:1", False),
    ],
)
def test_plaintext_leaves_the_machine_only_where_somebody_says_so(
    write: Any, mode: str, address: str, refused: bool
) -> None:
    listener = f'"{address}"\n    tls: {{mode: {mode}}}'
    assert any(
        "lets tokens cross the network" in message for message in messages(write('"127.0.0.1:6432"', listener))
    ) == (refused)
    assert not messages(write('"127.0.0.1:6432"', f"{listener}\n    insecure_plaintext: true"))


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ('{listen: "127.0.0.1:9464"}', ""),
        ('{listen: "127.0.0.1:0"}', ""),
        ('{listen: "[::1]:9464"}', ""),
        ('{listen: "10.0.0.5:9464", insecure_plaintext: true}', ""),
        ('{listen: "10.0.0.5:9464"}', "could read what is going on, in clear"),
        ('{listen: "127.0.0.1:6432"}', "port 6432 is already taken by listener `shop-db`"),
        ('{listen: "0.0.0.0:6432", insecure_plaintext: true}', "port 6432 is already taken by listener `shop-db`"),
        ('{listen: "9464"}', "expected address:port"),
        ("{}", "`listen` is required here"),
    ],
)
def test_the_port_for_metrics(write: Any, metrics: str, words: str) -> None:
    found = messages(write("resources:\n", f"metrics: {metrics}\nresources:\n"))
    assert len(found) == (1 if words else 0), found
    assert not words or words in found[0]


SECOND = """\
  - {name: NAME, protocol: postgres, listen: "ADDRESS", resource: shop}
resources:
"""


@pytest.mark.parametrize(
    ("name", "address", "words"),
    [
        ("shop-db", "127.0.0.1:7000", "`shop-db` is given twice"),
        ("two", "127.0.0.1:6432", "port 6432 is already taken by listener `shop-db`"),
        ("two", "0.0.0.0:6432", "port 6432 is already taken"),
        ("two", "127.0.0.2:6432", ""),
        ("two", "127.0.0.1:0", ""),
    ],
)
def test_listeners_do_not_get_in_each_others_way(write: Any, name: str, address: str, words: str) -> None:
    found = messages(write("resources:\n", SECOND.replace("NAME", name).replace("ADDRESS", address)))
    assert len(found) == (1 if words else 0), found
    assert not words or words in found[0]


def test_tls_files_must_exist_match_and_come_in_pairs(write: Any, tmp_path: Path, tls_files: tuple[Path, Path]) -> None:
    certificate, key = tls_files

    def found(tls: str) -> list[str]:
        return messages(write("    resource: shop\n", f"    resource: shop\n    tls: {{{tls}}}\n"))

    assert not found(f"certificate: {certificate}, key: {key}")
    assert "belong together" in found(f"certificate: {certificate}")[0]
    assert "no such file" in found(f"certificate: {certificate}, key: {tmp_path / 'none'}")[0]
    assert "usable PEM" in found(f"certificate: {key}, key: {key}")[0]
    assert not messages(write("    database: shop\n", f"    database: shop\n    tls: {{ca: {certificate}}}\n"))
    bad = messages(write("    database: shop\n", f"    database: shop\n    tls: {{ca: {key}}}\n"))
    assert len(bad) == 1
    assert bad[0].startswith("12:15:")


def test_a_hold_that_nobody_can_release_is_refused(write: Any) -> None:
    policy = (
        "version: 1\nname: x\ndescription: y\nrules:\n  - {id: a, description: b, hold: [data.delete]}\n"
        "  - {id: c, description: d, allow: [tx]}\n"
    )
    assert "nobody has the role `approver`" in messages(write(policy=policy))[0]
    assert not messages(write("version: 1\n", "version: 1\nroles: {approver: {groups: [oncall]}}\n", policy=policy))


def test_a_rule_about_an_unknown_resource_is_a_warning(write: Any) -> None:
    policy = (
        "version: 1\nname: x\ndescription: y\nrules:\n"
        "  - {id: a, description: b, deny: [ddl.*], resource: {names: [shpo, '*-test']}}\n"
    )
    path = write(policy=policy)
    found = check(path)
    assert [problem.warning for problem in found] == [True]
    assert "did you mean `shop`" in found[0].message
    assert isinstance(load(path), Config)


def test_a_hold_longer_than_the_limit_is_a_warning(write: Any) -> None:
    policy = (
        "version: 1\nname: x\ndescription: y\nrules:\n"
        "  - {id: a, description: b, hold: [tx], approvers: {expires: 1h}}\n"
    )
    limits = "version: 1\nroles: {approver: {groups: [a]}}\nlimits: {hold_timeout: 60}\n"
    (problem,) = check(write("version: 1\n", limits, policy=policy))
    assert problem.warning
    assert (problem.line, problem.message) == (3, "rule `x/a` holds for 3600 s, but nothing is held longer than 60 s")


def test_a_state_dir_that_is_a_file_is_refused(write: Any, tmp_path: Path) -> None:
    (tmp_path / "var").write_text("")
    assert "is no folder" in messages(write())[0]


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_state_dir_that_others_can_write_to_is_refused_wherever_the_socket_is(
    write: Any, tmp_path: Path, mode: int
) -> None:
    (tmp_path / "var").mkdir()
    (tmp_path / "var").chmod(mode)
    path = write("policies: [policy.yaml]", "policies: [policy.yaml]\ncontrol: {path: run/control.sock}")
    with pytest.raises(ConfigError, match="others can write to"):
        load(path)
    (tmp_path / "var").chmod(0o755)
    load(path)


def test_files_that_everybody_can_write_are_warned_of(write: Any, tmp_path: Path, tls_files: tuple[Path, Path]) -> None:
    certificate, key = tls_files
    path = write(
        "resource: shop", f"resource: shop\n    tls: {{certificate: {certificate}, key: {tmp_path / 'key.pem'}}}"
    )
    (tmp_path / "key.pem").write_bytes(key.read_bytes())
    for name in ("key.pem", "gateway.yaml", "policy.yaml"):
        (tmp_path / name).chmod(0o600)
    assert check(path) == []
    (tmp_path / "key.pem").chmod(0o644)
    (tmp_path / "policy.yaml").chmod(0o666)
    path.chmod(0o646)
    told = check(path)
    assert [(problem.line, problem.warning) for problem in told] == [(1, True), (7, True), (17, True)]
    assert [problem.message.partition(":")[0].rpartition("/")[2] for problem in told] == [
        "gateway.yaml`, and decide what passes here",
        "key.pem`",
        "policy.yaml`, and decide what passes here",
    ]
    load(path)


@pytest.mark.parametrize("text", ["[]", "x", "1", "null", "version: 1", "listeners: 5\npolicies: 7\n"])
def test_a_document_of_another_shape_is_a_problem_not_a_crash(write: Any, text: str) -> None:
    path = write(text=text)
    assert check(path)
    with pytest.raises(ConfigError):
        load(path)


# ---------------------------------------------------------------- protocols


MYSQL = BASE.replace("protocol: postgres", "protocol: mysql").replace("    database: shop\n", "")


def test_a_mysql_resource_has_its_own_port_and_needs_no_database(write: Write) -> None:
    config = load(write(text=MYSQL))
    resource = config.resources[0]
    assert (resource.port, resource.database, resource.opens("anything")) == (3306, None, True)
    assert resource.as_resource() == Resource("shop", "mysql", {"env": "prod"}, "")
    assert resource.as_resource("sales").database == "sales"
    named = load(write(text=MYSQL.replace("host:", "database: shop\n    port: 3307\n    host:"))).resources[0]
    assert (named.port, named.opens("shop"), named.opens("other")) == (3307, True, False)


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("    resource: shop\n", "    resource: shop\n    client_auth: oauth\n", 3, "does not exist in mysql"),
        ("    host:", "    databases: [other]\n    host:", 8, "name the first in `database`"),
        ("    resource: shop\n", "    resource: shop\n    hold_wait: 0\n", 7, "greater than 0"),
    ],
)
def test_what_mysql_does_not_have(write: Write, old: str, new: str, line: int, words: str) -> None:
    found = check(write(text=MYSQL.replace(old, new)))
    assert [(p.line, words in p.message) for p in found] == [(line, True)], found


def test_postgres_needs_its_database(write: Write) -> None:
    (problem,) = check(write("    database: shop\n", ""))
    assert problem.line == 8
    assert "`database` is required" in problem.message


def test_files_of_clients_exist_in_mysql_only(write: Write) -> None:
    wanted = ("    resource: shop\n", "    resource: shop\n    local_files: true\n")
    assert load(write(text=MYSQL.replace(*wanted))).listeners[0].local_files
    (problem,) = check(write(*wanted))
    assert (problem.line, problem.message) == (3, "`local_files` does not exist in postgres: leave it out here")


def test_hold_wait(write: Write) -> None:
    assert load(write()).listeners[0].hold_wait is None
    path = write("    resource: shop\n", "    resource: shop\n    hold_wait: 20.5\n")
    assert load(path).listeners[0].hold_wait == 20.5
