"""The demo, which is the whole job: every recipient is accounted for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def test_the_demo_reconciles(house: Any, tmp_path: Path) -> None:
    house.data = tmp_path / "demo"
    before = house.settings.pop("POSTHOUSE_SENDER_POSTAL_ADDRESS")
    done = house.run("demo", "--recipients", "300", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    imported = facts["imported"]
    assert imported["rows"] == 300
    assert imported["contacts"] + imported["merged"] + imported["rejected"] == 300
    assert facts["queued"] == imported["contacts"]
    total = facts["total"]
    finals = ("delivered", "bounced", "expired", "suppressed", "cancelled")
    assert sum(total[name] for name in finals) == facts["queued"]
    assert total["deferred_then_delivered"] > 0
    assert total["bounced"] > 0
    assert total["opened"] >= total["clicked"] > 0
    reconciliation = facts["reconciliation"]
    assert (reconciliation["missing"], reconciliation["unexplained"], reconciliation["discrepancies"]) == (0, 0, [])
    assert reconciliation["recipients"] == facts["queued"]
    assert len(facts["sites"]) >= 8
    assert "Nothing leaves this machine." in done.stderr
    assert before


def test_a_folder_that_is_no_demo_is_not_emptied(house: Any) -> None:
    assert "is not a demo's directory, so it is not emptied" in house.refusal("demo")
    assert (house.data / "posthouse.key").is_file()
