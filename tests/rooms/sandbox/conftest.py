"""A sandbox process to talk to, and a client that speaks SMTP over a raw socket, one reply at a time."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from time import sleep
from typing import Any

import pytest

from posthouse.sandbox import Plan, Sandbox, start


class Dialog:
    """An SMTP client that sends what it is told and reads whole replies."""

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port), timeout=10)
        self.file = self.socket.makefile("rb")

    def read(self) -> str:
        """One reply, its lines joined by newlines; empty where the connection has ended."""
        lines = []
        while True:
            try:
                line = self.file.readline().decode()
            except ConnectionResetError:
                line = ""
            lines.append(line.rstrip("\r\n"))
            if line[3:4] != "-":
                return "\n".join(lines)

    def send(self, raw: bytes) -> None:
        self.socket.sendall(raw)

    def say(self, line: str) -> str:
        self.send(line.encode() + b"\r\n")
        return self.read()

    def greet(self) -> str:
        """The greeting, then the reply to EHLO."""
        return f"{self.read()}\n{self.say('EHLO client.example')}"

    def encrypt(self, context: ssl.SSLContext, name: str) -> None:
        self.socket = context.wrap_socket(self.socket, server_hostname=name)
        self.file = self.socket.makefile("rb")

    def mail(self, rcpt: str, return_path: str = "bounce@sender.example") -> list[str]:
        """One short message, command by command, until a reply that is no 2xx or 3xx: every reply."""
        content = f"From: a@sender.example\r\nMessage-ID: <to.{rcpt}>\r\n\r\nHello\r\n."
        replies = []
        for line in (f"MAIL FROM:<{return_path}>", f"RCPT TO:<{rcpt}>", "DATA", content):
            replies.append(self.say(line))
            if replies[-1][:1] not in ("2", "3"):
                if line.startswith("RCPT") and replies[-1][:1] in ("4", "5"):
                    self.say("RSET")
                break
        return replies

    def close(self) -> None:
        self.file.close()
        self.socket.close()


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], None]:
    """Waits until something holds that another process brings about; fails where it never does."""

    def wait(holds: Callable[[], bool]) -> None:
        for _ in range(1000):
            if holds():
                return
            sleep(0.01)
        raise AssertionError("it never came about")

    return wait


@pytest.fixture
def run_sandbox(tmp_path: Path) -> Iterator[Callable[..., Sandbox]]:
    """Starts sandboxes for a test; the keywords are those of a Plan."""
    with ExitStack() as stack:

        def run(**plan: Any) -> Sandbox:
            return stack.enter_context(start(Plan(**{"seed": 1, "directory": tmp_path / "sandbox", **plan})))

        yield run


@pytest.fixture
def dial() -> Iterator[Callable[[Sandbox, str], Dialog]]:
    """Opens connections to a provider's first MX host; nothing is read yet."""
    with ExitStack() as stack:

        def connect(sandbox: Sandbox, provider: str) -> Dialog:
            dialog = Dialog(sandbox.ready.addresses[provider][0], sandbox.ready.smtp_port)
            stack.callback(dialog.close)
            return dialog

        yield connect


@pytest.fixture
def providers(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a directory with one provider, named "only", from the lines of its file."""

    def write(lines: str) -> Path:
        directory = tmp_path / "providers"
        directory.mkdir(exist_ok=True)
        (directory / "only.toml").write_text(f'name = "only"\ndomain = "only.test"\nweight = 1\n{lines}')
        return directory

    return write


@pytest.fixture(scope="module")
def quiet_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """One sandbox for the tests of a file that do not disturb each other."""
    with start(Plan(seed=1, directory=tmp_path_factory.mktemp("sandbox"))) as sandbox:
        yield sandbox
