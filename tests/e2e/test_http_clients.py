"""The clients that CI jobs have, unmodified, with the lines of docs/http.md: pip, npm, Node, git, Java, requests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.http_lab import HttpLab
from tests.support.http_site import LOCAL_POLICY, packages
from tests.support.journal import await_records

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module")
def lab() -> Iterator[HttpLab]:
    with HttpLab(policy=LOCAL_POLICY) as running:
        yield running


@pytest.fixture(scope="module")
def site(lab: HttpLab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with packages(lab.authority, tmp_path_factory.mktemp("site")) as url:
        yield url


def run(lab: HttpLab, argv: list[str | Path], tmp_path: Path, **env: str) -> subprocess.CompletedProcess[str]:
    other = ("PIP_", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "npm_config_")
    keep = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and not k.startswith(other)}
    own = {"HTTPS_PROXY": lab.proxy(lab.token()), "HOME": str(tmp_path), "NO_PROXY": "", "no_proxy": ""} | env
    return subprocess.run(argv, env={**keep, **own}, capture_output=True, text=True, timeout=60, cwd=tmp_path)


def went_through(lab: HttpLab, path: str) -> None:
    assert await_records(
        lab.state, lambda r: r.get("t") == "command" and path in r["text"] and r["decision"] == "allow"
    )


def test_pip_downloads(lab: HttpLab, site: str, tmp_path: Path) -> None:
    words: list[str | Path] = [sys.executable, "-m", "pip"]
    if subprocess.run([*words, "--version"], capture_output=True).returncode != 0:
        pip = shutil.which("pip")
        if pip is None:
            pytest.skip("there is no pip")
        words = [pip]
    argv = [
        *words,
        "download",
        "--no-deps",
        "--disable-pip-version-check",
        "-d",
        tmp_path,
        "--index-url",
        f"{site}/simple",
    ]
    done = run(lab, [*argv, "tiny-thing"], tmp_path, PIP_CERT=str(lab.proxy_ca), PIP_CONFIG_FILE=os.devnull)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tiny_thing-1.0-py3-none-any.whl").exists()
    went_through(lab, "/packages/tiny_thing")


@pytest.mark.skipif(shutil.which("npm") is None, reason="there is no npm")
def test_npm_pings(lab: HttpLab, site: str, tmp_path: Path) -> None:
    env = {"npm_config_https_proxy": lab.proxy(lab.token()), "npm_config_cafile": str(lab.proxy_ca)}
    done = run(lab, ["npm", "ping", "--registry", site, "--fetch-retries", "0"], tmp_path, **env)
    assert done.returncode == 0, done.stderr
    went_through(lab, "/-/ping")


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
def test_git_lists_and_clones(lab: HttpLab, site: str, tmp_path: Path) -> None:
    env = {"GIT_SSL_CAINFO": str(lab.proxy_ca), "GIT_CONFIG_NOSYSTEM": "1"}
    done = run(lab, ["git", "ls-remote", f"{site}/repo.git"], tmp_path, **env)
    assert done.returncode == 0, done.stderr
    assert "refs/heads/" in done.stdout
    done = run(lab, ["git", "clone", "-q", f"{site}/repo.git", "cloned"], tmp_path, **env)
    assert done.returncode == 0, done.stderr
    went_through(lab, "/repo.git/info/refs")


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no Node")
def test_node_with_a_tunnel_of_its_own(lab: HttpLab, site: str, tmp_path: Path) -> None:
    """Without `NODE_USE_ENV_PROXY` (Node before 24) a program opens the tunnel itself, as proxy agents do."""
    port = site.rpartition(":")[2]
    script = f"""
const http = require("http"), https = require("https");
const proxy = new URL(process.env.HTTPS_PROXY);
const auth = "Basic " + Buffer.from(proxy.username + ":" + proxy.password).toString("base64");
const request = http.request({{host: proxy.hostname, port: proxy.port, method: "CONNECT", path: "localhost:{port}",
  headers: {{"Proxy-Authorization": auth}}}});
request.on("connect", (answer, socket) => {{
  https.get({{host: "localhost", path: "/hello.json", socket, agent: false}}, r => {{
    r.on("data", d => process.stdout.write(d)); r.on("end", () => process.exit(0)); }});
}});
request.end();
"""
    done = run(lab, ["node", "-e", script], tmp_path, NODE_EXTRA_CA_CERTS=str(lab.proxy_ca))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"hello": "world"}
    went_through(lab, "/hello.json")


def test_the_environment_of_python(lab: HttpLab, site: str, tmp_path: Path) -> None:
    script = f"import urllib.request as u; print(u.urlopen('{site}/hello.json').read().decode())"
    done = run(lab, [sys.executable, "-c", script], tmp_path, SSL_CERT_FILE=str(lab.proxy_ca))
    assert json.loads(done.stdout) == {"hello": "world"}, done.stderr


def test_requests(lab: HttpLab, site: str, tmp_path: Path) -> None:
    pytest.importorskip("requests")
    script = f"import requests; print(requests.get('{site}/hello.json').text)"
    done = run(lab, [sys.executable, "-c", script], tmp_path, REQUESTS_CA_BUNDLE=str(lab.proxy_ca))
    assert json.loads(done.stdout) == {"hello": "world"}, done.stderr


JAVA = """
import java.net.*; import java.net.http.*; import java.io.*; import java.security.*; import java.security.cert.*;
import javax.net.ssl.*;
public class Get {
  public static void main(String[] a) throws Exception {
    KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType()); store.load(null);
    try (InputStream in = new FileInputStream(a[2])) {
      store.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(in)); }
    TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
    trust.init(store); SSLContext tls = SSLContext.getInstance("TLS"); tls.init(null, trust.getTrustManagers(), null);
    HttpClient client = HttpClient.newBuilder().sslContext(tls)
      .proxy(ProxySelector.of(new InetSocketAddress("127.0.0.1", Integer.parseInt(a[1])))).build();
    System.out.println(client.send(HttpRequest.newBuilder(URI.create(a[0])).build(),
      HttpResponse.BodyHandlers.ofString()).body());
  }
}
"""


@pytest.mark.skipif(shutil.which("java") is None, reason="there is no Java")
def test_java_behind_token_serve(lab: HttpLab, site: str, tmp_path: Path) -> None:
    source = tmp_path / "Get.java"
    source.write_text(JAVA)
    (tmp_path / "token").write_text(lab.token("java"))
    argv = [
        Path(sys.executable).with_name("sluicegate"),
        "token",
        "serve",
        "--no-password",
        "--file",
        tmp_path / "token",
    ]
    serve = subprocess.Popen(
        [*argv, "--gateway", f"http://127.0.0.1:{lab.ports['proxy']}"], stdout=subprocess.PIPE, text=True
    )
    assert serve.stdout is not None
    try:
        port = serve.stdout.readline().strip().rpartition(":")[2]
        done = run(lab, ["java", source, f"{site}/hello.json", port, lab.proxy_ca], tmp_path)
    finally:
        serve.terminate()
        serve.wait(10)
        serve.stdout.close()
    if "jdk.compiler" in done.stderr:
        pytest.skip("this Java has no compiler")
    assert json.loads(done.stdout) == {"hello": "world"}, done.stderr


def test_a_proxy_that_is_read_once_and_a_token_that_changes(lab: HttpLab, site: str, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(lab.token("first", ttl=32))
    argv = [Path(sys.executable).with_name("sluicegate"), "token", "serve", "--file", token]
    serve = subprocess.Popen(
        [*argv, "--gateway", f"http://127.0.0.1:{lab.ports['proxy']}"], stdout=subprocess.PIPE, text=True
    )
    assert serve.stdout is not None
    try:
        lines = dict(serve.stdout.readline().strip().split("=", 1) for _ in range(4))
        words: list[str | Path] = ["curl", "-sS", "--cacert", lab.proxy_ca, f"{site}/hello.json"]
        assert run(lab, words, tmp_path, **lines).stdout == '{"hello": "world"}'
        token.write_text(lab.token("second"))
        time.sleep(2.5)
        assert run(lab, words, tmp_path, **lines).stdout == '{"hello": "world"}'
    finally:
        serve.terminate()
        serve.wait(10)
        serve.stdout.close()
    started = await_records(
        lab.state, lambda r: r.get("t") == "session.start" and r["subject"] in ("first", "second"), 2
    )
    assert [r["subject"] for r in started] == ["first", "second"]
