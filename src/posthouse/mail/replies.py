"""What an SMTP reply or a network failure means: the only place that says temporary or permanent, host or message.

`parse_reply` reads what a server said; `Rules` says what it means. Rules are data (`mail/rules`): an operator's own file comes first, then
the shipped ones: providers, common wordings, RFC 3463 status codes. What no rule knows is decided by the reply code alone (SMTP-16).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from posthouse.mail.rules import Rule, Rulebook, Stage, read_rules, shipped_rules
from posthouse.model.closed_list import ClosedList
from posthouse.model.outcomes import BounceClass, Reaction, Reply, Scope, Verdict

__all__ = ["Failure", "Rules", "Stage", "parse_reply"]

_MAX_LINES = 100
_MAX_TEXT = 4096
_MAX_READ = 1024
_REMEMBERED_REPLIES = 4096


class Failure(ClosedList):
    """What went wrong without a reply from the other side."""

    CONNECT_REFUSED = "connect-refused", "The server refused the connection."
    CONNECT_TIMEOUT = "connect-timeout", "The server did not answer the connection attempt in time."
    CONNECT_UNREACHABLE = "connect-unreachable", "There is no way through the network to the server."
    CONNECTION_LOST = "connection-lost", "The connection broke in the middle of the conversation."
    REPLY_TIMEOUT = "reply-timeout", "The server did not answer a command in time."
    DNS_TEMPORARY = "dns-temporary", "DNS gave no answer; the domain may be well."
    DNS_NXDOMAIN = "dns-nxdomain", "The recipient's domain does not exist."
    NULL_MX = "null-mx", "The recipient's domain declares that it accepts no mail."
    NO_ADDRESS = "no-address", "The recipient's domain names no server with an address."
    BAD_MX = "bad-mx", "The recipient's domain names only servers that we must not or cannot use."
    MX_LOOP = "mx-loop", "The recipient's domain points back at us."
    TLS_FAILED = "tls-failed", "The encrypted connection could not be set up."
    TLS_REQUIRED = "tls-required", "Encryption is required, and the server does not offer it."
    CERTIFICATE_NAME = (
        "certificate-name",
        "The server's certificate is for other names than this mail needs.",
    )
    CERTIFICATE_EXPIRED = (
        "certificate-expired",
        "The server's certificate has expired, and this mail needs a valid one.",
    )
    CERTIFICATE_UNTRUSTED = (
        "certificate-untrusted",
        "No trusted authority signed the server's certificate, and this mail needs one that is signed.",
    )
    STS_NO_MX = "sts-no-mx", "No mail server of the domain is among those that its MTA-STS policy names."
    TLSA_MISMATCH = "tlsa-mismatch", "The server's certificate matches no TLSA record of it (DANE)."
    TLSA_UNANSWERED = (
        "tlsa-unanswered",
        "The server's TLSA records could not be looked up safely, so DANE can be checked for none.",
    )
    DANE_MISSING = "dane-missing", "Your rule asks for DANE, and no server of the domain has a signed TLSA record."
    SMTPUTF8_MISSING = "smtputf8-missing", "The address needs SMTPUTF8, and the server does not offer it."
    TOO_BIG = "too-big", "The message is larger than the server announced to accept."
    PROTOCOL_ERROR = "protocol-error", "The server said something that is not SMTP."

    @property
    def enhanced(self) -> str:
        """The RFC 3463 status that stands for this failure in the ledger and in DSNs."""
        return _FAILURES[self][0]

    @property
    def permanent(self) -> bool:
        """Whether retrying is useless."""
        return _FAILURES[self][0].startswith("5")


# Failure → status (its class digit says temporary or permanent), class, scope, reaction.
# DNS: NXDOMAIN is permanent, every other trouble is temporary and never suppresses (SMTP-7). A null MX is RFC 7505 (SMTP-6).
_FAILURES: dict[Failure, tuple[str, BounceClass, Scope, Reaction]] = {
    Failure.CONNECT_REFUSED: ("4.4.1", BounceClass.NETWORK, Scope.HOST, Reaction.RETRY),
    Failure.CONNECT_TIMEOUT: ("4.4.1", BounceClass.NETWORK, Scope.HOST, Reaction.RETRY),
    Failure.CONNECT_UNREACHABLE: ("4.4.1", BounceClass.NETWORK, Scope.HOST, Reaction.RETRY),
    Failure.CONNECTION_LOST: ("4.4.2", BounceClass.NETWORK, Scope.HOST, Reaction.RETRY),
    Failure.REPLY_TIMEOUT: ("4.4.2", BounceClass.NETWORK, Scope.HOST, Reaction.RETRY),
    Failure.DNS_TEMPORARY: ("4.4.3", BounceClass.DNS, Scope.HOST, Reaction.RETRY),
    Failure.DNS_NXDOMAIN: ("5.1.2", BounceClass.DOMAIN_BAD, Scope.RECIPIENT, Reaction.SUPPRESS),
    Failure.NULL_MX: ("5.1.10", BounceClass.DOMAIN_BAD, Scope.RECIPIENT, Reaction.SUPPRESS),
    # These three are a slip in a zone as often as a dead domain: give the message up, leave the address alone.
    Failure.NO_ADDRESS: ("5.4.4", BounceClass.DOMAIN_BAD, Scope.RECIPIENT, Reaction.FAIL),
    Failure.BAD_MX: ("5.4.4", BounceClass.DOMAIN_BAD, Scope.RECIPIENT, Reaction.FAIL),
    Failure.MX_LOOP: ("5.4.6", BounceClass.DOMAIN_BAD, Scope.RECIPIENT, Reaction.FAIL),
    Failure.TLS_FAILED: ("4.7.5", BounceClass.TLS, Scope.HOST, Reaction.RETRY),
    Failure.TLS_REQUIRED: ("4.7.10", BounceClass.TLS, Scope.HOST, Reaction.RETRY),
    Failure.CERTIFICATE_NAME: ("4.7.5", BounceClass.TLS, Scope.HOST, Reaction.RETRY),
    Failure.CERTIFICATE_EXPIRED: ("4.7.5", BounceClass.TLS, Scope.HOST, Reaction.RETRY),
    Failure.CERTIFICATE_UNTRUSTED: ("4.7.5", BounceClass.TLS, Scope.HOST, Reaction.RETRY),
    Failure.STS_NO_MX: ("4.7.5", BounceClass.TLS, Scope.HOST, Reaction.RETRY),
    Failure.TLSA_MISMATCH: ("4.7.5", BounceClass.TLS, Scope.HOST, Reaction.RETRY),
    Failure.TLSA_UNANSWERED: ("4.7.5", BounceClass.TLS, Scope.HOST, Reaction.RETRY),
    Failure.DANE_MISSING: ("4.7.5", BounceClass.TLS, Scope.HOST, Reaction.RETRY),
    Failure.SMTPUTF8_MISSING: ("5.6.7", BounceClass.CONTENT_TYPE, Scope.RECIPIENT, Reaction.FAIL),
    Failure.TOO_BIG: ("5.3.4", BounceClass.TOO_BIG, Scope.MESSAGE, Reaction.FAIL),
    Failure.PROTOCOL_ERROR: ("4.5.0", BounceClass.PROTOCOL, Scope.HOST, Reaction.RETRY),
}
_FAILURE_VERDICTS = {
    failure: Verdict(failure.permanent, bounce_class, scope, reaction, failure.value)
    for failure, (_, bounce_class, scope, reaction) in _FAILURES.items()
}

_DELIVERED = Verdict(False, BounceClass.UNDETERMINED, Scope.MESSAGE, Reaction.DELIVERED, "accepted")
_UNKNOWN_TEMPORARY = Verdict(False, BounceClass.UNDETERMINED, Scope.MESSAGE, Reaction.RETRY, "unknown-temporary")
_UNKNOWN_PERMANENT = Verdict(True, BounceClass.UNDETERMINED, Scope.MESSAGE, Reaction.FAIL, "unknown-permanent")
_ODD = Verdict(False, BounceClass.PROTOCOL, Scope.HOST, Reaction.RETRY, "no-smtp-reply")

_EARLY = frozenset({Stage.GREETING, Stage.EHLO})

_LINE = re.compile(r"\s*([2-5][0-9]{2})(?:[-\s,]+|$)(.*)", re.DOTALL)
_ENHANCED_FIRST = re.compile(r"#?([245]\.[0-9]{1,3}\.[0-9]{1,3})(?![.0-9])[\s:-]*")
# Later in the text a status must not be a piece of an IP address or of a version number.
_ENHANCED_LATER = re.compile(r"(?<![.0-9a-z/\[])#?([45]\.[0-9]{1,2}\.[0-9]{1,3})(?![.0-9])", re.IGNORECASE)
# What differs in every reply and says nothing: mail addresses (a mailbox may be called "spam"), IPv4 addresses, queue ids.
# Without it the replies of one kind are one text, which is judged once and then remembered.
_NO_WORDS = re.compile(
    r"[^\s<>\"'():;,]{1,64}@[^\s<>\"'();,]+|\b[0-9]{1,3}(?:\.[0-9]{1,3}){3}\b|\b(?=[a-z]*[0-9])[a-z0-9]{12,}\b"
)


def parse_reply(lines: Sequence[bytes]) -> Reply:
    """The reply that these lines are (with or without CRLF, at least one), its words joined by single blanks.

    The code of the last line that has one counts (RFC 5321 §4.2.1); leading blanks and missing or misplaced status codes are met as they
    come (SMTP-16). What is no reply at all gets code 0. A status is kept even where it contradicts the code: the code decides.
    """
    code = 0
    enhanced = None
    words: list[str] = []
    for raw in lines[:_MAX_LINES]:
        line = raw.decode("utf-8", "replace")
        match = _LINE.match(line)
        if match:
            code, line = int(match[1]), match[2]
            status = _ENHANCED_FIRST.match(line)
            if status:
                enhanced = enhanced or status[1]
                line = line[status.end() :]
        words.append(" ".join(line.split()))
    text = " ".join(word for word in words if word)[:_MAX_TEXT]
    if enhanced is None and code >= 400:
        later = _ENHANCED_LATER.search(text)
        enhanced = later[1] if later else None
    return Reply(code, enhanced, text)


class Rules:
    """Says what replies and failures mean. Immutable after it was made; remembers the replies that it met lately."""

    def __init__(self, rulebook: Rulebook) -> None:
        self._rulebook = rulebook
        self._candidates: dict[tuple[str | None, int], tuple[Rule, ...]] = {}
        self._by_name = {rule.name: rule for rule in reversed(rulebook.rules)}
        self._decide_again = lru_cache(_REMEMBERED_REPLIES)(self._decide)

    @classmethod
    def load(cls, *paths: Path) -> Rules:
        """The shipped rules, preceded by those of the operator's files in the order given.

        Raises SettingWrong with file, line, rule, key and reason where a file cannot be read or a rule is wrong.
        """
        shipped = shipped_rules()
        return cls(Rulebook.joined([*(read_rules(path, shipped.providers) for path in paths), shipped]))

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Every rule in the order of trial; the first that fits decides."""
        return self._rulebook.rules

    def named(self, name: str) -> Rule | None:
        """The rule of that name, as a verdict gives it; the first of several. None for a verdict that no rule made."""
        return self._by_name.get(name)

    def decider_of_example(self, rule: Rule) -> str | None:
        """The name of the rule that decides a rule's own example, at a stage and a provider that the rule is about; None: it has none."""
        if rule.example is None:
            return rule.name
        stage = min(rule.stages - _EARLY, default=Stage.GREETING if rule.stages else Stage.RCPT)
        verdict = self.interpret(parse_reply([rule.example.encode()]), stage, min(rule.providers, default=None))
        return verdict.rule if verdict.rule in self._by_name else None

    def provider_of(self, mx_host: str) -> str | None:
        """The provider's short name ("google") for a mail exchanger's host name, or None when it is none of those we know."""
        return self._rulebook.provider_of(mx_host)

    def interpret(self, reply: Reply, stage: Stage, provider: str | None) -> Verdict:
        """What a reply means at this stage. provider: its short name or a host name of it; None where it is not known.

        The code alone decides temporary or permanent, except where a rule says otherwise and why. Unknown 4xx and odd things are temporary;
        unknown 5xx is permanent and suppresses nothing (BNC-5).
        """
        if 200 <= reply.code < 300:
            return _DELIVERED
        if not 400 <= reply.code < 600:
            return _ODD
        words = _NO_WORDS.sub("", reply.text[:_MAX_READ].lower())
        return self._decide_again(reply.code, reply.enhanced, words, stage, provider)

    def interpret_failure(self, failure: Failure, stage: Stage) -> Verdict:
        """What a failure means at this stage. A connection lost after the final dot may have been a delivery: retry it (SMTP-19)."""
        if stage is Stage.STARTTLS and failure in (Failure.CONNECTION_LOST, Failure.REPLY_TIMEOUT):
            return _FAILURE_VERDICTS[Failure.TLS_FAILED]
        return _FAILURE_VERDICTS[failure]

    def _decide(self, code: int, enhanced: str | None, text: str, stage: Stage, provider: str | None) -> Verdict:
        for rule in self._candidates_for(code, provider):
            if rule.fits(enhanced, text, stage):
                return rule.permanent_verdict if code >= 500 else rule.temporary_verdict
        return _UNKNOWN_PERMANENT if code >= 500 else _UNKNOWN_TEMPORARY

    def _candidates_for(self, code: int, provider: str | None) -> tuple[Rule, ...]:
        """The rules that may speak about this code of this provider. Their number is bounded: codes times known providers."""
        if provider is not None and provider not in self._rulebook.providers:
            provider = self._rulebook.provider_of(provider) or ""
        key = (provider, code)
        found = self._candidates.get(key)
        if found is None:
            found = tuple(rule for rule in self._rulebook.rules if code in rule.codes and rule.is_about(provider))
            self._candidates[key] = found
        return found
