"""From what the other side said to the outcome of an attempt."""

from __future__ import annotations

from posthouse.delivery.job import Answer
from posthouse.mail.replies import Failure, Rules, Stage
from posthouse.model.messages import Copy
from posthouse.model.outcomes import BounceClass, Outcome, Reaction, Status, Verdict
from posthouse.model.ports import Chance
from posthouse.model.retry import RetrySchedule

_SECOND = 1_000_000
_KEPT_TEXT = 500


def judge(
    copy: Copy, answer: Answer, rules: Rules, schedule: RetrySchedule, now: int, chance: Chance
) -> tuple[Outcome, Verdict | None]:
    """The outcome of an attempt that ended with `answer` at `now` (microseconds since 1970), and the verdict behind it.

    The verdict is None for a delivery. A deferral that would outlive the message's life is an expiry.
    """
    reply = answer.reply
    if answer.verdict is not None:
        verdict = answer.verdict
    elif reply is not None and 200 <= reply.code < 300:
        if answer.stage is Stage.CONTENT:
            return _outcome(copy, Status.DELIVERED, now, answer, None, None), None
        # Such as 250 to DATA: the server has lost its way, and no content has left.
        verdict = rules.interpret_failure(Failure.PROTOCOL_ERROR, answer.stage)
    elif reply is not None:
        verdict = rules.interpret(reply, answer.stage, answer.remote)
    else:
        assert answer.failure is not None
        verdict = rules.interpret_failure(answer.failure, answer.stage)
    if verdict.permanent:
        return _outcome(copy, Status.BOUNCED, now, answer, verdict, None), verdict
    next_try = now + int(schedule.pause(copy.attempt, verdict, chance) * _SECOND)
    if next_try > copy.first_at + int(schedule.life * _SECOND):
        return _outcome(copy, Status.EXPIRED, now, answer, verdict, None), verdict
    return _outcome(copy, Status.DEFERRED, now, answer, verdict, next_try), verdict


def expired(copy: Copy, now: int) -> Outcome:
    """The outcome of a copy that grew too old before this attempt."""
    return Outcome(
        workspace_id=copy.workspace_id,
        message_id=copy.message_id,
        attempt=copy.attempt,
        status=Status.EXPIRED,
        at=now,
        campaign_id=copy.campaign_id,
        contact_id=copy.contact_id,
        site_id=copy.site_id,
        bounce_class=BounceClass.EXPIRED,
        rule="life-over",
    )


def _outcome(
    copy: Copy, status: Status, now: int, answer: Answer, verdict: Verdict | None, next_try: int | None
) -> Outcome:
    reply = answer.reply
    if reply is not None:
        code, enhanced, text = reply.code, reply.enhanced, reply.text[:_KEPT_TEXT]
    else:
        assert answer.failure is not None
        code, enhanced, text = 0, answer.failure.enhanced, answer.failure.sentence
    return Outcome(
        copy.workspace_id,
        copy.message_id,
        copy.attempt,
        status,
        now,
        copy.campaign_id,
        copy.contact_id,
        copy.site_id,
        code,
        enhanced,
        text,
        None if verdict is None else verdict.bounce_class,
        None if verdict is None else verdict.rule,
        answer.remote,
        Reaction.DELIVERED if verdict is None else verdict.reaction,
        next_try,
    )
