"""Rule files that change while the program runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from posthouse.mail.replies import Stage, parse_reply
from posthouse.mail.rule_files import Look, RuleFiles
from posthouse.model.errors import SettingWrong

RULE = '[[rule]]\nname = "{name}"\nphrases = ["blorb"]\nclass = "policy"\nscope = "message"\nreaction = "fail"\n'
BLORB = parse_reply([b"550 5.1.1 blorb"])


def decider(files: RuleFiles) -> str:
    return files.rules.interpret(BLORB, Stage.RCPT, None).rule


def put(path: Path, text: str) -> None:
    """Write, with a stamp that no earlier one had, as a clock that goes on would give it."""
    last = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(text)
    os.utime(path, ns=(last + 1_000_000, last + 1_000_000))


def test_a_changed_file_is_in_force_once_it_has_rested_for_a_look(tmp_path: Path) -> None:
    path = tmp_path / "replies.toml"
    files = RuleFiles(path)
    assert (decider(files), files.look()) == ("status-bad-mailbox", Look.SAME)
    put(path, RULE.format(name="first"))
    assert [files.look(), files.look(), files.look()] == [Look.SAME, Look.RELOADED, Look.SAME]
    assert decider(files) == "first"
    put(path, RULE.format(name="half"))
    files.look()
    put(path, RULE.format(name="whole"))
    assert (files.look(), decider(files)) == (Look.SAME, "first"), "it was still being written"
    assert (files.look(), decider(files)) == (Look.RELOADED, "whole")
    path.unlink()
    assert [files.look(), files.look()] == [Look.SAME, Look.RELOADED]
    assert decider(files) == "status-bad-mailbox"


def test_a_file_that_was_only_touched_is_not_taken_anew(tmp_path: Path) -> None:
    path = tmp_path / "replies.toml"
    put(path, RULE.format(name="first"))
    files = RuleFiles(path)
    before = files.rules
    put(path, RULE.format(name="first"))
    assert [files.look(), files.look()] == [Look.SAME, Look.SAME]
    assert files.rules is before


@pytest.mark.parametrize("wrong", [RULE.format(name="second").replace("policy", "polizy"), "[[rule]", "\udcff"])
def test_a_wrong_file_keeps_the_old_rules_and_is_told_once(tmp_path: Path, wrong: str) -> None:
    path = tmp_path / "replies.toml"
    put(path, RULE.format(name="first"))
    files = RuleFiles(path)
    path.write_bytes(wrong.encode("utf-8", "surrogateescape"))
    os.utime(path, ns=(1, 1))
    assert [files.look(), files.look(), files.look()] == [Look.SAME, Look.REFUSED, Look.SAME]
    assert (decider(files), "replies.toml" in str(files.trouble)) == ("first", True)
    put(path, RULE.format(name="first"))
    assert [files.look(), files.look()] == [Look.SAME, Look.SAME]
    assert (decider(files), files.trouble) == ("first", None)


def test_a_program_does_not_begin_with_wrong_rules(tmp_path: Path) -> None:
    path = tmp_path / "replies.toml"
    put(path, "[[rule]]\nname = 3\n")
    with pytest.raises(SettingWrong, match=r"replies\.toml, line 2, rule “3”, name: Expected `str`"):
        RuleFiles(path)
