"""The signing limit: one process per core that does nothing but RSA-2048 signatures of ready hashes (answers 33)."""

from __future__ import annotations

import multiprocessing
import os
import time
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from typing import Any

from posthouse.mail.dkim import DkimSigner
from posthouse.mail.dkim_keys import generate_rsa


@dataclass(frozen=True)
class SigningLimit:
    """Signatures a second on all cores together, and CPU microseconds of one."""

    per_second: float
    cpu_us: float


def measure(seconds: float) -> SigningLimit:
    """Sign for that long on every core at once."""
    cores = os.cpu_count() or 1
    context = multiprocessing.get_context("spawn")
    answers: Any = context.SimpleQueue()
    together = context.Barrier(cores)
    processes = [context.Process(target=_sign, args=(seconds, together, answers), daemon=True) for _ in range(cores)]
    for process in processes:
        process.start()
    parts = [answers.get() for _ in processes]
    for process in processes:
        process.join()
    return SigningLimit(sum(rate for rate, _ in parts), sum(cpu for _, cpu in parts) / cores)


def mean(first: SigningLimit, second: SigningLimit) -> SigningLimit:
    """The limit of a run: the mean of before and after."""
    return SigningLimit((first.per_second + second.per_second) / 2, (first.cpu_us + second.cpu_us) / 2)


def _sign(seconds: float, together: Barrier, answers: Any) -> None:
    signer = DkimSigner("example.com", "bench", generate_rsa())
    digest = bytes(32)
    for _ in range(50):
        signer.sign_digest(digest)
    together.wait()
    count = 0
    began, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds:
        signer.sign_digest(digest)
        count += 1
    answers.put((count / (time.perf_counter() - began), (time.process_time() - cpu) / count * 1e6))
