"""rules check, list, test: what replies mean, and whether your own rules can be read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from posthouse.cli.options import Data, Json, installation
from posthouse.cli.output import print_json, print_table, say
from posthouse.mail.replies import Rules, Stage, parse_reply
from posthouse.mail.rule_files import RuleFiles
from posthouse.mail.rules import Rule, read_rules, shipped_rules
from posthouse.model.errors import Refused
from posthouse.model.outcomes import Reaction, Verdict

commands = typer.Typer(help="Rules about what mail servers say; yours are in replies.toml.", no_args_is_help=True)
_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


@commands.command()
def check(
    file: Annotated[Path | None, typer.Argument(help="A rule file; else replies.toml of the data directory.")] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Read a rule file as the senders would, and try every rule on its own example.

    Example: posthouse rules check replies.toml
    """
    path = file or installation(data)[0].reply_rules
    if not path.exists():
        raise Refused(f"There is no rule file {path}; the shipped rules alone are in force.")
    shipped = shipped_rules()
    own = read_rules(path, shipped.providers)
    rules = RuleFiles(path).rules
    misjudged = {rule.name: decider for rule in own.rules if (decider := rules.decider_of_example(rule)) != rule.name}
    if json:
        print_json({"file": str(path), "rules": len(own.rules), "misjudged": misjudged})
    else:
        say(f"{path}: {len(own.rules)} rules can be read.")
        for name, decider in misjudged.items():
            say(
                f"“{name}”: its example is decided by {decider or 'no rule'}; is it too narrow, or does another stand first?"
            )
    if misjudged:
        raise typer.Exit(1)


@commands.command("list")
def list_(
    provider: Annotated[str | None, typer.Option("--provider", help="Only those about it, such as google.")] = None,
    reaction: Annotated[Reaction | None, typer.Option("--reaction", help="Only those that ask this.")] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Show the rules in force, in the order of trial: the first that fits decides.

    Example: posthouse rules list --provider yahoo --reaction hold
    """
    shown = [
        rule
        for rule in _in_force(data).rules
        if (provider is None or provider in rule.providers) and (reaction is None or rule.reaction is reaction)
    ]
    if json:
        print_json([_facts(rule) for rule in shown])
        return
    rows = [(r.name, ", ".join(sorted(r.providers)), r.scope.value, r.reaction.value, _demand(r)) for r in shown]
    print_table("Reply rules", ("rule", "provider", "about", "reaction", "and"), rows, numbers_from=9)


@commands.command("test")
def try_reply(
    reply: Annotated[str, typer.Argument(help="What the server said, with its code; lines may be parted by \\n.")],
    host: Annotated[str | None, typer.Option("--host", help="The mail exchanger that said it.")] = None,
    stage: Annotated[Stage, typer.Option("--stage", help="In answer to what.")] = Stage.RCPT,
    data: Data = None,
    json: Json = False,
) -> None:
    """Say what a reply would do.

    Example: posthouse rules test "421 4.7.28 unusual rate of mail from your DKIM domain" --host gmail-smtp-in.l.google.com
    """
    rules = _in_force(data)
    read = parse_reply(reply.replace("\\r", "").replace("\\n", "\n").encode().splitlines() or [b""])
    verdict = rules.interpret(read, stage, host)
    rule = rules.named(verdict.rule)
    named = rule.subject_of(read.text) if rule is not None else None
    if json:
        print_json(
            {
                "reply": read,
                "provider": rules.provider_of(host) if host else None,
                "verdict": verdict,
                "names": named,
                "rule": _facts(rule) if rule is not None else None,
            }
        )
        return
    say(
        f"Rule      {verdict.rule}"
        + (f", provider {', '.join(sorted(rule.providers))}" if rule and rule.providers else "")
    )
    say(f"Class     {verdict.bounce_class}: {verdict.bounce_class.sentence}")
    say(f"About     {verdict.scope}: {verdict.scope.sentence}" + (f" It names {named}." if named else ""))
    say(f"Reaction  {verdict.reaction}: {verdict.reaction.sentence}")
    say(f"Message   {_message_words(verdict)}")
    if rule is not None and _demand(rule):
        say(f"And       {_demand(rule)}")
    if rule is not None and rule.mend:
        say(f"Mend      {rule.mend}")


def _in_force(data: Path | None) -> Rules:
    return RuleFiles(installation(data)[0].reply_rules).rules


def _message_words(verdict: Verdict) -> str:
    if verdict.reaction is Reaction.DELIVERED:
        return "Delivered."
    if verdict.permanent:
        return "It fails for good."
    if verdict.retry_after is not None:
        return f"It is tried again after {_time(verdict.retry_after)}."
    return "It is tried again, by the common schedule."


def _demand(rule: Rule) -> str:
    """What a rule asks beyond its message, in words."""
    words: list[str] = []
    brake = rule.brake
    if brake is not None:
        if brake.per_minute is not None:
            words.append(f"{brake.per_minute:g}/min" + (", halved on repeat" if brake.halve else ""))
        if brake.connections is not None:
            words.append(f"{brake.connections} connection{'s' if brake.connections > 1 else ''}")
        if brake.messages_per_connection is not None:
            words.append(f"{brake.messages_per_connection} messages a connection")
        if brake.is_hold:
            words.append("hold")
        words.append("until a person ends it" if brake.seconds is None else f"for {_time(brake.seconds)}")
    if rule.reaction is Reaction.STOP:
        words.append(f"stop the {rule.stops}")
    if rule.stop_after is not None:
        words.append(f"stop the {rule.stops} if needed for more than {_time(rule.stop_after)}")
    if rule.suppress_after > 1:
        words.append(f"suppress on the {rule.suppress_after}. different day")
    trigger = rule.trigger
    if words and trigger.after > 1:
        words.append(f"after {trigger.after} in {_time(trigger.within)}")
    if words and trigger.sites > 1:
        words.append(f"from {trigger.sites} sites")
    return ", ".join(words)


def _time(seconds: float) -> str:
    size, unit = next((size, unit) for size, unit in _UNITS if seconds >= size or size == 1)
    return f"{seconds / size:g} {unit}"


def _facts(rule: Rule) -> dict[str, Any]:
    return {
        "name": rule.name,
        "providers": sorted(rule.providers),
        "stages": sorted(rule.stages),
        "class": rule.temporary_verdict.bounce_class,
        "scope": rule.scope,
        "reaction": rule.reaction,
        "trigger": rule.trigger,
        "brake": rule.brake,
        "stops": rule.stops if rule.reaction is Reaction.STOP or rule.stop_after is not None else None,
        "stop_after": rule.stop_after,
        "suppress_after": rule.suppress_after,
        "mend": rule.mend,
        "example": rule.example,
    }
