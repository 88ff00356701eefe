"""The reference says everything, and names nothing that is not there."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from importlib import import_module

import msgspec
import pytest
from cyclopts import App
from tests.docs.pages import ROOT, all_pages, anchors, blocks, links, page, section

import openrouter_audit
from openrouter_audit import cli
from openrouter_audit.config import Config, load_config
from openrouter_audit.core.entries import (
    KINDS,
    Facts,
    Found,
    Parameters,
    ProviderPreferences,
    RedirectHop,
    RouterAttempt,
    ToolCall,
    kind_of_class,
)
from openrouter_audit.core.entries import Writer as WriterObject
from openrouter_audit.errors import ConfigError
from openrouter_audit.reports.questions import QUESTIONS
from openrouter_audit.reports.rows import COLUMNS
from openrouter_audit.verification.findings import EXIT_CODES, SEVERITIES

COMMANDS_PAGE = page("docs/reference/commands.md")
ENTRIES_PAGE = page("docs/reference/entries.md")
PYTHON_PAGE = page("docs/reference/python.md")
PAGES = [str(path.relative_to(ROOT)) for path in all_pages()]
OBJECTS = (WriterObject, ProviderPreferences, Parameters, Found, ToolCall, RouterAttempt, RedirectHop)


def options_of(command: str) -> set[str]:
    """The names a command takes, as the program itself has them; positional ones in capitals."""
    module, function = cli.COMMANDS[command][0].split(":")
    app = App()
    app.default(getattr(import_module(f"openrouter_audit.cli.{module}"), function))
    arguments = app.assemble_argument_collection()
    return {name for argument in arguments for name in (*argument.names, *argument.negatives)} - {"--home"}


def mentions(text: str, name: str) -> bool:
    """The name stands in the text on its own, not as a part of a longer one."""
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text) is not None


# Commands ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_a_command_has_a_section_with_all_it_takes(command):
    text = section(COMMANDS_PAGE, command)

    assert text, f"no section ## {command}"
    missing = {name for name in options_of(command) if not mentions(text, name)}
    assert set() == missing
    assert blocks(text, "console"), "no example"


def test_a_section_of_the_commands_is_a_command():
    assert list(cli.COMMANDS) == re.findall(r"^## (.*)$", COMMANDS_PAGE, re.MULTILINE)


def test_exits_reports_and_findings_are_named():
    exits = {cli.EXIT_USAGE, cli.EXIT_BAD_DATA, cli.EXIT_UNAVAILABLE, cli.EXIT_INTERRUPTED, 0}
    assert exits <= {int(code) for code in re.findall(r"^\| (\d+) \|", COMMANDS_PAGE, re.MULTILINE)}
    verify = section(COMMANDS_PAGE, "verify")
    for verdict, code in EXIT_CODES.items():
        assert f"| {code} | {verdict.replace('_', ' ')} |" in verify
    assert set() == {kind for kind in SEVERITIES if f"`{kind}`" not in verify}
    report = section(COMMANDS_PAGE, "report")
    assert set() == {name for name in QUESTIONS if f"| `{name}` |" not in report}


@pytest.mark.parametrize("name", PAGES)
def test_commands_shown_anywhere_are_those_there_are(name):
    """Also their options: what a reader copies is understood."""
    for _, body in blocks(page(name), "sh", "console"):
        for line in re.findall(r"(?:^|[$;] |=\S+ )openrouter-audit (.*)$", body, re.MULTILINE):
            words = shlex.split(line, comments=True)
            while words and words[0] == "--home":
                words = words[2:]
            assert words[0].rstrip(";") in cli.COMMANDS, line
            command = words[0].rstrip(";")
            words = words[: words.index("--")] if "--" in words else words
            used = {word.split("=")[0] for word in words[1:] if re.match(r"--?[a-z]", word)}
            assert used <= options_of(command) | {f"-{count}{unit}" for count in (7, 24) for unit in "hd"}, line


# Entries, columns, settings, Python -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids=kind_of_class)
def test_a_kind_has_a_section_with_all_its_fields_and_its_schema(kind):
    """Each field a row of the table; bold where it is always there."""
    text = section(ENTRIES_PAGE, kind_of_class(kind))
    common = {field.encode_name for field in msgspec.structs.fields(Facts)}
    fields = [field for field in msgspec.structs.fields(kind) if field.encode_name not in common]

    assert [(field.encode_name, field.required) for field in fields] == rows_of(text)
    target = f"../../src/openrouter_audit/core/schemas/{kind_of_class(kind)}.json"
    assert target in links(text)


@pytest.mark.parametrize("kind", OBJECTS, ids=lambda kind: kind.__name__)
def test_an_object_inside_entries_has_a_section_with_all_its_fields(kind):
    text = section(ENTRIES_PAGE, kind.__name__)

    assert [(field.encode_name, field.required) for field in msgspec.structs.fields(kind)] == rows_of(text)


def test_what_every_entry_has_is_said_once():
    text = section(ENTRIES_PAGE, "What every entry has")
    common = [(field.encode_name, field.required) for field in msgspec.structs.fields(Facts)]

    assert sorted([("kind", True), *common]) == sorted(rows_of(text))


def rows_of(text: str) -> list[tuple[str, bool]]:
    """Names in the first column of the tables, and whether they are bold."""
    return [(name, bool(bold)) for bold, name in re.findall(r"^\| (\*\*)?`(\w+)`", text, re.MULTILINE)]


def test_every_column_of_a_call_is_described():
    cells = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", page("docs/reference/columns.md"), re.MULTILINE)
    described = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]

    assert list(COLUMNS) == described[: len(COLUMNS)]


def test_every_setting_is_shown_in_its_section():
    (_, body), *_ = blocks(page("docs/reference/settings.md"), "toml")
    shown = {
        (part.split("]")[0], name)
        for part in re.split(r"^\[", body, flags=re.MULTILINE)[1:]
        for name in re.findall(r"^(\w+) =", part, re.MULTILINE)
    }
    there = {
        (group.name, setting.name)
        for group in msgspec.structs.fields(Config)
        for setting in msgspec.structs.fields(group.type)
    }

    assert there == shown


def test_settings_that_pages_show_are_settings(tmp_path):
    shown = [(path, body) for path in all_pages() for _, body in blocks(path.read_text(), "toml")]
    assert len(shown) > 4
    file = tmp_path / "config.toml"
    for path, body in shown:
        file.write_text(body)
        try:
            load_config(file, {}).content_policy()
        except ConfigError as error:
            pytest.fail(f"{path.name}: {error}")


def test_every_public_name_has_a_section_with_all_its_arguments():
    for name in openrouter_audit.__all__:
        if name == "__version__":
            continue
        text = section(PYTHON_PAGE, name)
        assert text, name
        public = getattr(openrouter_audit, name)
        if inspect.isclass(public):
            members = [member for member in vars(public) if not member.startswith("_")]
            members += [field for field in getattr(public, "__slots__", ()) if name != "attribution"]
        else:
            members = list(inspect.signature(public).parameters)
        internal = {"home", "config", "hosts", "mode", "policy", "write", "sync", "finished"}
        wanted = set(members) - (internal if name == "AuditLog" else set())
        assert set() == {member for member in wanted if not mentions(text, member)}, name
    for function in (openrouter_audit.AuditLog.open, openrouter_audit.attribution):
        text = section(PYTHON_PAGE, "AuditLog") + section(PYTHON_PAGE, "attribution")
        assert set() == {
            argument for argument in inspect.signature(function).parameters if not mentions(text, argument)
        }


# All pages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    """Files that are in the project, and headings that are on them."""
    for link in links(page(name)):
        if link.startswith(("http:", "https:", "mailto:")):
            continue
        target, _, anchor = link.partition("#")
        path = (ROOT / name).parent / target if target else ROOT / name
        assert path.exists(), link
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path.read_text()), link


@pytest.mark.parametrize("name", list(PAGES))
def test_files_and_modules_named_in_code_exist(name):
    """`tests/…`, `bench.…` and the like: a promise that names a test that is gone is no promise."""
    for path in re.findall(r"`((?:tests|src|bench|examples|demo)/[\w./*-]+)`", page(name)):
        assert list(ROOT.glob(path)), path
    for module in re.findall(r"python -m (bench\.\w+)", page(name)):
        assert (ROOT / (module.replace(".", "/") + ".py")).exists(), module


@pytest.mark.parametrize("name", PAGES)
def test_python_shown_is_python(name):
    for _, body in blocks(page(name), "python"):
        ast.parse(body)


def test_each_promise_names_its_test():
    """P1 to P9, each with at least one file of tests."""
    promises = re.findall(r"^\| (P\d) \|.*\| (.*) \|$", page("README.md"), re.MULTILINE)

    assert [f"P{number}" for number in range(1, 10)] == [name for name, _ in promises]
    for _, tests in promises:
        assert re.search(r"`tests/[\w/]+test_\w+\.py`", tests)
