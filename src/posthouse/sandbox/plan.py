"""What a sandbox is asked to be, and what it tells when it is ready."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import msgspec
from msgspec import Struct

from posthouse.model.errors import PosthouseError


class PlanWrong(PosthouseError):
    """The sandbox's plan cannot be used."""


class SandboxUnavailable(PosthouseError):
    """The sandbox cannot be started."""


class People(Struct, frozen=True, forbid_unknown_fields=True):
    """Which share (0 to 1) of those who receive a message does what; people who click are among those who open."""

    opens: float = 0.0
    clicks: float = 0.0
    complains: float = 0.0
    unsubscribes: float = 0.0


class Plan(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that a sandbox does follows from its plan and from what it is sent.

    seed: the same seed gives the same mailboxes, limits and people.
    directory: where records, certificates and zones are kept; made where it is missing.
    smtp_port, dns_port: 0 picks a free one; the SMTP port is the same on every provider's loopback address.
    clock_file: the shared file of a `posthouse.clock.JumpingClock`; None follows the machine's clock.
    bounce_mx: "ip:port" of the SMTP door that takes DSNs and complaint reports; None sends none.
    public_address: "ip:port" where every host name of the sender's zones leads; None keeps people from following links.
    public_hosts: the names on the certificate that Posthouse may serve there.
    domains: recipient domain → a provider's name, or nxdomain, servfail, silent, null-mx (`zones.json` can add more).
    providers: a directory of provider files to use in place of those that ship with the sandbox.
    rate_scale: multiplies every provider's rate limit.
    withhold: share of accepted messages whose answer is never written, at every provider.
    record: False keeps the counters but writes no line per message.
    """

    seed: int
    directory: Path
    smtp_port: int = 0
    dns_port: int = 0
    clock_file: Path | None = None
    bounce_mx: str | None = None
    public_address: str | None = None
    public_hosts: tuple[str, ...] = ()
    people: People = People()
    domains: dict[str, str] = {}
    providers: Path | None = None
    rate_scale: float = 1.0
    withhold: float = 0.0
    record: bool = True


class Ready(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a running sandbox listens and what it writes.

    addresses: provider → the loopback addresses of its MX hosts. public_certificate and public_key: set when the plan names public hosts.
    """

    pid: int
    smtp_port: int
    dns_port: int
    addresses: dict[str, list[str]]
    ca_file: Path
    record_file: Path
    status_file: Path
    public_certificate: Path | None = None
    public_key: Path | None = None


def to_json(value: Plan | Ready) -> bytes:
    """A plan or a ready notice as one line of JSON, paths as text."""
    return msgspec.json.encode(value, enc_hook=str)


def ready_from_json(line: bytes) -> Ready:
    """The other side of to_json. Raises msgspec.DecodeError."""
    return msgspec.json.decode(line, type=Ready, dec_hook=_decode_path)


def _decode_path(kind: type, value: object) -> Path:
    return Path(str(value))


def read_plan(path: Path) -> Plan:
    """The plan in a JSON file. Raises PlanWrong with a sentence that names the fault."""
    try:
        plan = msgspec.json.decode(path.read_bytes(), type=Plan, dec_hook=_decode_path)
    except (OSError, msgspec.DecodeError) as error:
        raise PlanWrong(f"The plan {path} cannot be read: {error}") from error
    check_plan(plan)
    return plan


def check_plan(plan: Plan) -> None:
    """Refuse what cannot be done. Raises PlanWrong."""
    shares = {**msgspec.structs.asdict(plan.people), "withhold": plan.withhold}
    for name, share in shares.items():
        if not 0.0 <= share <= 1.0:
            raise PlanWrong(f"{name} is a share, so it must lie between 0 and 1, not {share}.")
    if plan.rate_scale <= 0:
        raise PlanWrong(f"rate_scale multiplies the rate limits, so it must be above 0, not {plan.rate_scale}.")
    for name, address in (("bounce_mx", plan.bounce_mx), ("public_address", plan.public_address)):
        if address is not None:
            host_and_port(address, name)


def host_and_port(address: str, name: str) -> tuple[str, int]:
    """An "ip:port" text taken apart; the address must be a loopback one, so that no rehearsal leaves the machine. Raises PlanWrong."""
    host, _, port = address.rpartition(":")
    try:
        loopback = ip_address(host.strip("[]")).is_loopback
        number = int(port)
    except ValueError as error:
        raise PlanWrong(f"{name} must look like 127.0.0.1:2525, not “{address}”.") from error
    if not loopback or not 0 < number < 65536:
        raise PlanWrong(f"{name} must be a port on a loopback address, not “{address}”.")
    return host.strip("[]"), number
