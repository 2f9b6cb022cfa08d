"""The render child: a process that may be killed at any time (answers 17).

`python -m posthouse.composing.child FD PARENT MEMORY`: FD is a socket that was handed down. Messages are MessagePack behind a
four-octet length. In: `{"load": {part: source}}` or `{"render": [values, …], "each": bool}`. Out: `{"ready": true}` once,
then for each recipient in order `{"parts": […]}` or `{"error": sentence}`; with `each` as soon as it is made, so that the parent knows
whose rendering failed, otherwise some together, which costs both sides less.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import sys
from typing import Any

import msgspec

from posthouse.composing.engine import Engine, RenderError

_PR_SET_PDEATHSIG = 1
_LENGTH_OCTETS = 4
# Less than a socket's buffer, so that the parent reads while the child goes on.
_SENT_TOGETHER = 100_000


def main(arguments: list[str]) -> int:
    """Serve until the parent closes the socket or dies."""
    descriptor, parent, memory = (int(argument) for argument in arguments)
    _live_small_and_die_with(parent, memory)
    serve(socket.socket(fileno=descriptor))
    return 0


def _live_small_and_die_with(parent: int, memory: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # The parent died before the signal was asked for.
        os._exit(0)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def serve(connection: socket.socket) -> None:
    """Answer requests until the other side closes."""
    engine = Engine()
    connection.sendall(_framed({"ready": True}))
    stream = connection.makefile("rb")
    while head := stream.read(_LENGTH_OCTETS):
        request = msgspec.msgpack.decode(stream.read(int.from_bytes(head, "big")))
        if "load" in request:
            engine.load(request["load"])
        else:
            _answer(connection, engine, request["render"], _SENT_TOGETHER * (not request["each"]))


def _answer(connection: socket.socket, engine: Engine, batch: list[dict[str, Any]], together: int) -> None:
    waiting = bytearray()
    for values in batch:
        waiting += _framed(_rendered(engine, values))
        if len(waiting) >= together:
            connection.sendall(waiting)
            waiting.clear()
    connection.sendall(waiting)


def _rendered(engine: Engine, values: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"parts": engine.render(values)}
    except RenderError as error:
        return {"error": str(error)}


def _framed(answer: dict[str, Any]) -> bytes:
    encoded = msgspec.msgpack.encode(answer)
    return len(encoded).to_bytes(_LENGTH_OCTETS, "big") + encoded


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
