"""The render child: a process that may be killed at any time (answers 17).

`python -m posthouse.composing.child FD PARENT MEMORY`: FD is a socket that was handed down. Messages are MessagePack behind a
four-octet length. In: `{"load": {part: source}}` or `{"render": [values, …]}`. Out: `{"ready": true}` once,
then for each recipient in order `{"parts": […]}` or `{"error": sentence}`, each as soon as it is made, so that the parent knows whose
rendering failed.
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
    _send(connection, {"ready": True})
    stream = connection.makefile("rb")
    while head := stream.read(_LENGTH_OCTETS):
        request = msgspec.msgpack.decode(stream.read(int.from_bytes(head, "big")))
        if "load" in request:
            engine.load(request["load"])
        else:
            for values in request["render"]:
                _send(connection, _rendered(engine, values))


def _rendered(engine: Engine, values: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"parts": engine.render(values)}
    except RenderError as error:
        return {"error": str(error)}


def _send(connection: socket.socket, answer: dict[str, Any]) -> None:
    encoded = msgspec.msgpack.encode(answer)
    connection.sendall(len(encoded).to_bytes(_LENGTH_OCTETS, "big") + encoded)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
