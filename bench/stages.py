"""What a message costs in one sender, stage by stage: the real functions with a clock around them, the sum of the process beside it."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.receiver import receiver
from bench.run import Scenario, _campaign, _fill
from posthouse import accounts
from posthouse.app import open_app
from posthouse.composing import Composer
from posthouse.data_directory import DataDirectory
from posthouse.delivery.session import Session
from posthouse.flows import deliver as deliver_flow
from posthouse.flows import settle as settle_flow
from posthouse.flows.launch import launch
from posthouse.flows.tell import tell
from posthouse.mail.dkim import DkimSigner
from posthouse.settings import load_settings


class _Clocks:
    """CPU time of one thread inside named functions; an inner stage is not counted for the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner = [0.0]

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with its own CPU time counted under `name`."""

        def timed(*arguments: Any, **named: Any) -> Any:
            self._inner.append(0.0)
            began = time.thread_time()
            try:
                return function(*arguments, **named)
            finally:
                used = time.thread_time() - began
                self.seconds[name] += used - self._inner.pop()
                self._inner[-1] += used

        return timed


async def measure(messages: int) -> dict[str, float]:
    """CPU microseconds a message: sign, fill (compose without the signature), wire (session without composing), rest, PostgreSQL apart."""
    scenario = Scenario("stages", messages)
    clocks = _Clocks()
    patched: list[tuple[Any, str, Callable[..., Any]]] = [
        (DkimSigner, "sign_digest", DkimSigner.sign_digest),
        (Composer, "compose", Composer.compose),
        (Session, "data_received", Session.data_received),
        (settle_flow.Settler, "note", settle_flow.Settler.note),
    ]
    names = {"sign_digest": "sign", "compose": "fill", "data_received": "wire", "note": "note"}
    for owner, name, function in patched:
        setattr(owner, name, clocks.around(names[name], function))
    try:
        with tempfile.TemporaryDirectory(prefix="posthouse-bench-") as folder:
            Path(folder).chmod(0o755)
            directory = DataDirectory(Path(folder) / "data")
            directory.create()
            accounts.create_key(directory.key_file)
            with receiver(Path(folder) / "sandbox", 1, tls=False) as sink:
                total = await _one_sender(directory, scenario, sink)
    finally:
        for owner, name, function in patched:
            setattr(owner, name, function)
    costs = {name: seconds / messages * 1e6 for name, seconds in clocks.seconds.items()}
    costs["claim, settle and loop"] = total / messages * 1e6 - sum(costs.values())
    return {name: round(cost, 1) for name, cost in costs.items()}


async def _one_sender(directory: DataDirectory, scenario: Scenario, sink: Any) -> float:
    """CPU seconds of this process for the sending alone."""
    environment = {
        **os.environ,
        "POSTHOUSE_DNS_NAMESERVERS": f"127.0.0.1:{sink.dns_port}",
        "POSTHOUSE_DELIVERY_PORT": str(sink.smtp_port),
        "POSTHOUSE_DELIVERY_ALLOW_PRIVATE_ADDRESSES": "true",
        "POSTHOUSE_DELIVERY_MESSAGES_PER_CONNECTION": "1000",
        "POSTHOUSE_SENDER_POSTAL_ADDRESS": "1 Coach Road, Sampletown",
    }
    async with open_app(directory, load_settings(directory.settings_file, environment), connections=8) as app:
        await _fill(app, scenario)
        stop = asyncio.Event()

        async def loops() -> None:
            while not stop.is_set():
                if not (await launch(app) or await tell(app)):
                    await asyncio.sleep(0.05)

        began = time.process_time()
        sender = asyncio.create_task(deliver_flow.deliver(app, 0, 1, stop))
        looping = asyncio.create_task(loops())
        await _campaign(app, scenario)
        used = time.process_time() - began
        stop.set()
        await asyncio.gather(sender, looping)
        return used
