"""Real reverse proxies for the tests, each a process of its own on the loopback interface: nginx and HAProxy.

with nginx(backend, location="/emb/", rules="client_max_body_size 2k;") as url: ...
with haproxy(backend, server="maxconn 1") as url: ...
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.servers import free_port

_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
NGINX, HAPROXY = (shutil.which(name, path=_PATH) for name in ("nginx", "haproxy"))
needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed; .ci/run does it where it may")
needs_haproxy = pytest.mark.skipif(
    HAPROXY is None, reason="haproxy is not installed; .ci/run does it where it may"
)

_NGINX = """
daemon off;
pid nginx.pid;
worker_processes 1;
{user}
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    {http}
    server {{
        listen 127.0.0.1:{port} {listen};
        {rules}
        location {location} {{ proxy_pass http://127.0.0.1:{backend}/; proxy_http_version 1.1; }}
    }}
}}
"""
_HAPROXY = """
defaults
    mode http
    timeout connect 1s
    timeout client 30s
    timeout server 30s
    timeout queue 30s
    {defaults}
frontend door
    bind 127.0.0.1:{port}
    default_backend behind
backend behind
    server it 127.0.0.1:{backend} {server}
"""


@contextmanager
def nginx(
    backend: int, *, rules: str = "", location: str = "/", http: str = "", certificate: Path | None = None
) -> Iterator[str]:
    """An nginx in front of a port.

    Args:
        backend: The port behind it.
        rules: What stands in its ``server``.
        location: The prefix that it serves.
        http: What stands in its ``http``.
        certificate: Key and certificates, in PEM: it speaks TLS.

    Yields:
        Its URL, with the prefix.
    """
    port = free_port()
    if certificate is not None:
        rules += f" ssl_certificate {certificate}; ssl_certificate_key {certificate};"
    config = _NGINX.format(
        user="user root;" if os.geteuid() == 0 else "",  # else its worker may not read its folder
        port=port,
        listen="ssl" if certificate else "",
        backend=backend,
        rules=rules,
        location=location,
        http=http,
    )
    with _running([str(NGINX), "-e", "stderr", "-p", ".", "-c"], config, port):
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{port}{location.rstrip('/')}"


@contextmanager
def haproxy(backend: int, *, defaults: str = "", server: str = "") -> Iterator[str]:
    """A HAProxy in front of a port, and its URL.

    Args:
        backend: The port behind it.
        defaults: What stands in its ``defaults``.
        server: What is said of the server.
    """
    port = free_port()
    config = _HAPROXY.format(port=port, backend=backend, defaults=defaults, server=server)
    with _running([str(HAPROXY), "-db", "-f"], config, port):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def _running(command: Sequence[str], config: str, port: int) -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="embedwire-") as folder:
        path, log = Path(folder, "config"), Path(folder, "log")
        path.write_text(config)
        with (
            log.open("wb") as out,
            subprocess.Popen([*command, str(path)], cwd=folder, stdout=out, stderr=out) as process,
        ):
            try:
                _wait(process, port, log)
                yield
            finally:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(10)
                process.kill()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < end:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise RuntimeError(f"it did not start\n{log.read_text('utf-8', 'replace')}")
