"""Every client that this machine has logs in through the handshake, with its token where its password goes.

Behind the handshake the bytes go on to a real server as they are, so that the client's first query is answered in the
variant of the protocol that both legs agreed on. Each client runs in a process of its own: their C libraries do not
bear each other.
"""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from protocols.contract import Admission, Authenticate, Credential, ListenerTerms, Principal, Refused, Resource
from scripts.support import mysql
from scripts.support.mysql import MySQLServer
from scripts.support.tls import Authority
from tests.support.mysql_login import LoginGateway

pytestmark = pytest.mark.slow

QUERY = "SELECT 41+1, DATABASE()"
SHORT, LONG = "t" * 400, "t" * 4000

_DRIVER = """
import sys
port, token, ca = int(sys.argv[1]), sys.argv[2], sys.argv[3]
where = dict(host="127.0.0.1", port=port, user="ada", password=token, database="shop")
{connect}
cursor = c.cursor()
cursor.execute("SELECT 41+1, DATABASE()")
print(*cursor.fetchall()[0])
c.close()
"""
_ASYNCMY = """
import asyncio, ssl, sys
import asyncmy
async def main(port, token, ca):
    tls = ssl.create_default_context(cafile=ca) if ca else None
    c = await asyncmy.connect(host="127.0.0.1", port=int(port), user="ada", password=token, database="shop", ssl=tls)
    async with c.cursor() as cursor:
        await cursor.execute("SELECT 41+1, DATABASE()")
        print(*(await cursor.fetchall())[0])
    c.close()
asyncio.run(main(*sys.argv[1:4]))
"""
_DRIVERS = {
    "pymysql": "import pymysql\n"
    "c = pymysql.connect(**where, **(dict(ssl_ca=ca, ssl_verify_identity=True) if ca else dict(ssl_disabled=True)))",
    "mysqlclient": "import MySQLdb\n"
    "c = MySQLdb.connect(**where, **(dict(ssl=dict(ca=ca)) if ca else dict(ssl_mode='DISABLED')))",
    "connector-pure": "import mysql.connector\nc = mysql.connector.connect(use_pure=True, **where,"
    " **(dict(ssl_ca=ca, ssl_verify_identity=True) if ca else dict(ssl_disabled=True)))",
    "connector-c": "import mysql.connector\nc = mysql.connector.connect(use_pure=False, **where,"
    " **(dict(ssl_ca=ca, ssl_verify_identity=True) if ca else dict(ssl_disabled=True)))",
    "mariadb": "import mariadb\nc = mariadb.connect(**where, **(dict(ssl_ca=ca, ssl_verify_cert=True) if ca else {}))",
}
_JAVA = """
import java.sql.*;
public class Client {
  public static void main(String[] a) throws Exception {
    try (Connection c = DriverManager.getConnection(a[0], "ada", a[1]); Statement s = c.createStatement();
         ResultSet r = s.executeQuery("SELECT 41+1, DATABASE()")) {
      r.next();
      System.out.println(r.getString(1) + " " + r.getString(2));
    }
  }
}
"""
_JAR = Path("/usr/share/java/mariadb-java-client.jar")
Client = Callable[[int, str, str], list[str]]  # (port, token, CA or empty) -> argv


def _python(code: str) -> Client:
    return lambda port, token, ca: [sys.executable, "-W", "ignore", "-c", code, str(port), token, ca]


def _command_line(program: list[str], tls: list[str], plain: list[str]) -> Client:
    def argv(port: int, token: str, ca: str) -> list[str]:
        options = [f"--ssl-ca={ca}", *tls] if ca else plain
        where = ["-h127.0.0.1", f"-P{port}", "--protocol=TCP", "-uada", f"-p{token}", "-NB"]
        return [*program, "--no-defaults", *where, *options, "-e", QUERY, "shop"]

    return argv


def _jdbc(folder: Path) -> Client:
    source = folder / "Client.java"
    source.write_text(_JAVA)

    def argv(port: int, token: str, ca: str) -> list[str]:
        options = f"useSSL=true&serverSslCert={ca}" if ca else "allowPublicKeyRetrieval=true"
        url = f"jdbc:mariadb://127.0.0.1:{port}/shop?{options}"
        return ["java", "-cp", str(_JAR), str(source), url, token]

    return argv


CLIENTS = ("mariadb-cli", "mysql-cli", *_DRIVERS, "asyncmy", "jdbc")


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Client]:
    """Those that are here."""
    found = {name: _python(_DRIVER.format(connect=connect)) for name, connect in _DRIVERS.items()}
    found["asyncmy"] = _python(_ASYNCMY)
    if program := shutil.which("mariadb"):
        found["mariadb-cli"] = _command_line([program], ["--ssl-verify-server-cert"], ["--skip-ssl"])
    for installation in mysql.available():
        if installation.flavour == "mysql":
            argv = [str(part) for part in installation.client()]
            plain = ["--ssl-mode=DISABLED", "--get-server-public-key"]
            found["mysql-cli"] = _command_line(argv, ["--ssl-mode=VERIFY_IDENTITY"], plain)
    if shutil.which("java") and _JAR.is_file():
        found["jdbc"] = _jdbc(tmp_path_factory.mktemp("java"))
    return found


@pytest.fixture
def gateway(
    request: pytest.FixtureRequest, mysql_server: MySQLServer, authority: Authority
) -> Iterator[tuple[LoginGateway, str]]:
    """The parameter is what the listener says of TLS; the second of the pair the CA, empty where clients go plain."""
    mode: str = request.param
    pair = authority.server("gateway")
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_context.load_cert_chain(pair.certificate, pair.key)
    user, password = mysql_server.logins[mysql_server.method]

    def admit(asked: Authenticate) -> Admission:
        if asked.token not in (SHORT, LONG):
            raise Refused("authentication failed: the token is not one", "28P01")
        resource = Resource("shop", "mysql", {}, asked.database)
        return Admission(Principal("ada", "https://idp"), resource, Credential(user, password), asked.database, True)

    with LoginGateway(
        ListenerTerms(mode),
        admit,
        (mysql_server.host, mysql_server.port),
        server_context=server_context,
        upstream_context=ssl.create_default_context(cafile=authority.file),
    ) as running:
        yield running, str(authority.file) if mode == "required" else ""


def run(argv: list[str]) -> subprocess.CompletedProcess[str]:
    # the wheel of the C connector brings the OpenSSL that it was built with, and does not find it by itself
    vendor = Path(sysconfig.get_path("platlib")) / "mysql" / "vendor"
    extra = {"LD_LIBRARY_PATH": str(vendor)} if "use_pure=False" in " ".join(argv) else {}
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, env={**os.environ, **extra})


@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.parametrize("gateway", ["required"], indirect=True)
@pytest.mark.parametrize("token", [SHORT, LONG], ids=["short", "long"])
def test_a_token_inside_tls(
    gateway: tuple[LoginGateway, str], clients: dict[str, Client], name: str, token: str
) -> None:
    if name not in clients:
        pytest.skip(f"no {name} here")
    running, ca = gateway
    done = run(clients[name](running.port, token, ca))
    assert (done.stdout.split(), done.returncode) == (["42", "shop"], 0), (done.stderr, running.errors)
    (asked,) = (a for a in running.asked if isinstance(a, Authenticate))
    assert (asked.token, asked.claimed_user, asked.database) == (token, "ada", "shop")
    assert asked.application
    assert running.handovers[0].client == b""


# it insists on TLS or on a switch of its own (`get_server_public_key`) that its Python side does not have everywhere
ONLY_TLS = ("connector-c",)


@pytest.mark.parametrize("name", [name for name in CLIENTS if name not in ONLY_TLS])
@pytest.mark.parametrize("gateway", ["off"], indirect=True)
def test_a_token_without_tls(gateway: tuple[LoginGateway, str], clients: dict[str, Client], name: str) -> None:
    if name not in clients:
        pytest.skip(f"no {name} here")
    running, _ = gateway
    done = run(clients[name](running.port, SHORT, ""))
    assert (done.stdout.split(), done.returncode) == (["42", "shop"], 0), (done.stderr, running.errors)


@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.parametrize("gateway", ["required"], indirect=True)
def test_a_wrong_token_is_an_ordinary_error(
    gateway: tuple[LoginGateway, str], clients: dict[str, Client], name: str
) -> None:
    if name not in clients:
        pytest.skip(f"no {name} here")
    running, ca = gateway
    done = run(clients[name](running.port, "wrong", ca))
    assert done.returncode != 0
    assert "the token is not one" in done.stderr
    assert not running.handovers
