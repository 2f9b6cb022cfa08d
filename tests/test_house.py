"""The house keeps its own rules: imports, SQL, closed lists, settings, files."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

import grimp
import pytest

import posthouse
from posthouse.model.closed_list import ClosedList
from posthouse.settings import Settings, load_settings, setting_rows, settings_file

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "posthouse"
PYTHON = sorted(SOURCE.rglob("*.py"))
SQL_FILES = sorted(path for path in SOURCE.rglob("*.sql") if "migrations" not in path.parts)

# High to low; one line holds strangers to each other. The same order stands in pyproject.toml for import-linter.
LAYERS = [
    ("cli",),
    ("sandbox",),
    ("doors",),
    ("flows",),
    ("app",),
    ("accounts", "analytics", "audience", "campaigns", "composing", "delivery", "feedback", "queue", "reputation"),
    ("ledger",),
    ("db", "mail", "clock"),
    ("data_directory",),
    ("settings",),
    ("model",),
]
PLACES = [place for layer in LAYERS for place in layer]
LEVEL = {place: level for level, layer in enumerate(LAYERS) for place in layer}
FORBIDDEN = [(low, high) for low in PLACES for high in PLACES if low != high and LEVEL[low] >= LEVEL[high]]


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """Who imports whom, once for all tests."""
    return grimp.build_graph("posthouse", cache_dir=None)


def broken(graph: grimp.ImportGraph) -> set[tuple[str, str]]:
    """(importer, imported) of every layer rule that the graph breaks."""
    layers = [{*layer} for layer in LAYERS]
    found = graph.find_illegal_dependencies_for_layers(
        layers=[grimp.Layer(*layer, independent=True) for layer in layers], containers={"posthouse"}
    )
    return {(each.importer.split(".")[1], each.imported.split(".")[1]) for each in found}


def test_the_layers_hold_and_every_folder_has_its_place(graph: grimp.ImportGraph) -> None:
    assert broken(graph) == set()
    children = {name.split(".")[1] for name in graph.find_children("posthouse")}
    assert children == set(PLACES)


@pytest.mark.parametrize(("importer", "imported"), FORBIDDEN)
def test_every_forbidden_import_is_caught(graph: grimp.ImportGraph, importer: str, imported: str) -> None:
    edge = {"importer": f"posthouse.{importer}", "imported": f"posthouse.{imported}"}
    graph.add_import(**edge)
    try:
        assert (importer, imported) in broken(graph)
    finally:
        graph.remove_import(**edge)


def test_the_sandbox_shares_no_parser_with_mail(graph: grimp.ImportGraph) -> None:
    for module in graph.modules:
        if module.startswith("posthouse.sandbox"):
            direct = graph.find_modules_directly_imported_by(module)
            assert not [
                name for name in direct if name.startswith(("posthouse.mail", "posthouse.delivery", "posthouse.db"))
            ]


def test_the_linter_has_the_same_layers() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"\nlayers = \[(.*?)\n\]", text, re.DOTALL)
    assert listed is not None
    lines = re.findall(r'"([^"]+)"', listed[1])
    assert [tuple(part.strip() for part in line.split("|")) for line in lines] == LAYERS


def statements(path: Path) -> dict[str, str]:
    """Name → text of the statements of a SQL file."""
    parts = re.split(r"^-- name: (\w+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("path", SQL_FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_every_statement_is_used_and_says_what_it_is_for(path: Path) -> None:
    code = "\n".join(file.read_text(encoding="utf-8") for file in path.parent.rglob("*.py"))
    used = set(re.findall(r'SQL\["(\w+)"\]', code))
    named = statements(path)
    assert named.keys() == used
    for name, text in named.items():
        assert re.match(r"\n-- [A-Z].*[.;]", text), f"{name} has no sentence"


@pytest.mark.parametrize("path", SQL_FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_query_asks_the_database_for_the_time(path: Path) -> None:
    text = re.sub(r"--.*", "", path.read_text(encoding="utf-8")).lower()
    if path.parent.name == "db":
        text = text.replace("default clock_timestamp()", "")  # when a migration was applied is the machine's own matter
    assert not re.search(r"\bnow\(\)|current_timestamp|clock_timestamp|statement_timestamp|localtimestamp", text)


def test_sql_stands_in_files_only() -> None:
    pattern = re.compile(r"""(?:fetch|fetchrow|fetchval|execute|cursor)\(\s*f?["']""")
    assert [str(path) for path in PYTHON if pattern.search(path.read_text(encoding="utf-8"))] == []


def test_a_table_is_written_by_one_room_only() -> None:
    writers: dict[str, set[str]] = {}
    for path in SQL_FILES:
        text = re.sub(r"--.*", "", path.read_text(encoding="utf-8"))
        for table in re.findall(r"(?:insert into|update|delete from)\s+(\w+)", text):
            if table not in {"set", "of", "skip"}:
                writers.setdefault(table, set()).add(path.parent.name)
    assert {table: rooms for table, rooms in writers.items() if len(rooms) > 1} == {}


def closed_lists() -> list[type[ClosedList]]:
    """Every closed list of the program."""
    for module in pkgutil.walk_packages(posthouse.__path__, "posthouse."):
        if not module.name.endswith("__main__") and "keeper" not in module.name:
            importlib.import_module(module.name)
    return ClosedList.__subclasses__()


def test_every_value_of_a_closed_list_has_its_sentence() -> None:
    lists = closed_lists()
    assert len(lists) > 10
    for each in lists:
        for member in each:
            assert member.sentence.endswith("."), f"{each.__name__}.{member.name}"
            assert each(member.value) is member


def test_the_settings_file_reads_back_as_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "posthouse.toml"
    file.write_text(settings_file(), encoding="utf-8")
    assert load_settings(file, {}) == Settings()
    uncommented = re.sub(r"^# (\w+ = )", r"\1", settings_file(), flags=re.MULTILINE)
    file.write_text(uncommented, encoding="utf-8")
    assert load_settings(file, {}) == Settings()
    for name, _, sentence in setting_rows(Settings()):
        assert sentence.endswith((".", ")."))
        assert f"# {sentence}\n" in settings_file(), name


FOLDERS = ("src", "tests", "bench", "docs", "examples", "requirements", "scripts", ".ci")
MADE_BY_TOOLS = {"__pycache__", "results"}


def our_files() -> list[Path]:
    """The project's own text files; git is not needed, because a bare machine has none."""
    deep = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if not MADE_BY_TOOLS & set(path.parts)]
    return [path for path in (*deep, *ROOT.glob("*")) if path.is_file()]


def test_no_file_names_a_registry_or_a_place_of_one_machine() -> None:
    hosts = re.compile(r"(pypi|pythonhosted|npmjs|crates)\.(org|com|io)|--(extra-)?index-url|--find-links|\"resolved\"")
    places = re.compile(r"(?<![\w.])/(work|root|home/\w+)/")
    for path in our_files():
        if path.name in {"test_house.py", "LICENSE"} or path.suffix in {".png"}:
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        assert not hosts.search(text), path
        assert not places.search(text), path


@pytest.mark.parametrize("name", ["run.txt", "dev.txt"])
def test_the_locks_pin_by_hash_and_name_no_address(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    assert "://" not in text
    pins = re.findall(r"^[a-z0-9_.-]+(?:\[[a-z0-9,]+\])?==[^ ]+", text, re.MULTILINE)
    assert len(pins) > 30
    assert len(re.findall(r"--hash=sha256:", text)) >= len(pins)


def test_no_file_has_grown_into_several() -> None:
    assert {
        str(path): lines for path in PYTHON if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 500
    } == {}
