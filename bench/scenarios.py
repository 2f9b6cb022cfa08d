"""What is measured: the runs of `make bench`, each by the name that chooses it on the command line."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Scenario:
    """What is sent to whom.

    logic: the template has `if` and `for`, so that a render child makes it; tls: the receiver offers STARTTLS; domains: how many
    the recipients are spread over; own_hosts: each domain has a mail exchanger, and so a site, of its own.
    """

    name: str
    recipients: int = 50_000
    logic: bool = False
    tls: bool = False
    signed: bool = True
    domains: int = 1
    own_hosts: bool = False

    def sized(self, recipients: int) -> Scenario:
        """The same for another number of recipients, with at most as many domains."""
        return replace(self, recipients=recipients, domains=min(self.domains, recipients))


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("blanks"),
        Scenario("logic", logic=True),
        Scenario("tls", tls=True),
        Scenario("tls-logic", tls=True, logic=True),
        Scenario("unsigned", signed=False),
        Scenario("50-domains", domains=50),
        Scenario("20000-domains", domains=20_000),
        Scenario("20000-hosts", domains=20_000, own_hosts=True),
    )
}
