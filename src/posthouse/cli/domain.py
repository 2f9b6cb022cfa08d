"""domain add, verify, list: who may send."""

from __future__ import annotations

from typing import Annotated

import typer

from posthouse import accounts
from posthouse.accounts import MAIN_WORKSPACE, DnsRecord
from posthouse.app import App
from posthouse.cli.options import Data, Json, opened, run
from posthouse.cli.output import print_json, print_table, say
from posthouse.mail.address import domain_to_ascii

commands = typer.Typer(help="Sending domains: keys, DNS records, verification.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="The domain in your From addresses, such as example.com.", metavar="DOMAIN")]


@commands.command()
def add(name: Name, data: Data = None, json: Json = False) -> None:
    """Create DKIM keys for a domain and print the DNS records to publish.

    Example: posthouse domain add example.com
    """
    run(lambda: _add(name, data, json))


@commands.command()
def verify(
    name: Name,
    data: Data = None,
    json: Json = False,
    force: Annotated[bool, typer.Option("--force", help="Let it send all the same; this is recorded.")] = False,
) -> None:
    """Check a domain's DNS records; it may send from then on.

    Example: posthouse domain verify example.com
    """
    raise typer.Exit(0 if run(lambda: _verify(name, data, json, force)) else 1)


@commands.command("list")
def list_(data: Data = None, json: Json = False) -> None:
    """Show all sending domains."""
    run(lambda: _list(data, json))


async def records_of(app: App, workspace_id: int, domain: str) -> list[DnsRecord]:
    """The records to publish for a domain of this installation."""
    return await accounts.domain_records(
        app.db,
        workspace_id,
        domain,
        bounce_subdomain=app.settings.sender.bounce_subdomain,
        mail_host=app.mail_host,
    )


async def _add(name: str, data: Data, json: bool) -> None:
    domain = domain_to_ascii(name)
    async with opened(data) as app:
        async with app.db.acquire() as connection, connection.transaction():
            added = await accounts.add_domain(connection, MAIN_WORKSPACE, domain, app.key, app.clock.now())
        records = await records_of(app, MAIN_WORKSPACE, domain)
        if json:
            print_json({"domain": domain, "added": added, "records": records})
            return
        say(f"{domain} {'was added' if added else 'is a sending domain already'}. Publish these DNS records:")
        for record in records:
            say(f"\n{record.reason}{'' if record.required else ' (optional)'}")
            say(
                f"  {record.name}.  {record.kind}  {record.value if record.kind == 'MX' else chr(34) + record.value + chr(34)}"
            )
        say(
            f"\n{app.mail_host} must lead to this machine, and port 25 of it to the SMTP door ({app.settings.inbound.listen})."
        )
        say(f"Next: posthouse domain verify {domain}")


async def _verify(name: str, data: Data, json: bool, force: bool) -> bool:
    domain = domain_to_ascii(name)
    async with opened(data) as app:
        checks = await accounts.check_domain(app.resolver, await records_of(app, MAIN_WORKSPACE, domain))
        async with app.db.acquire() as connection, connection.transaction():
            may_send = await accounts.note_check(
                connection, MAIN_WORKSPACE, domain, checks, app.clock.now(), forced=force
            )
    if json:
        print_json({"domain": domain, "verified": may_send, "forced": force, "checks": checks})
        return may_send
    for check in checks:
        mark = "ok     " if check.problem is None else ("missing" if check.record.required else "note   ")
        say(f"{mark}  {check.record.kind:4} {check.record.name}{'' if check.problem is None else ': ' + check.problem}")
    if not may_send:
        say(f"{domain} may not send yet. DNS changes can take an hour; --force overrides, and is recorded.")
    elif force:
        say(f"{domain} may send because you forced it; this is recorded.")
    else:
        say(f"{domain} is verified.")
    return may_send


async def _list(data: Data, json: bool) -> None:
    async with opened(data) as app:
        domains = await accounts.list_domains(app.db, MAIN_WORKSPACE)
    if json:
        print_json(domains)
    elif not domains:
        say("There is no sending domain yet: posthouse domain add YOUR-DOMAIN")
    else:
        rows = [(d.domain, d.verified_at.date() if d.verified_at else "not verified") for d in domains]
        print_table("Sending domains", ("domain", "verified"), rows)
