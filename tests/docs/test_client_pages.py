"""
The pages of docs/how-to/clients: those of clients in this environment are done here, those of a group of tests/clients there;
and every client has its page, every page its run.
"""

from __future__ import annotations

import re

import pytest
from tests.capture.websocket_server import WebSocketServer
from tests.clients.pages import (
    DEVELOPMENT,
    FOLDER,
    RUNS,
    SERVED,
    check_example,
    check_refusal,
    environment_of,
    pages_of,
    programs_of,
    python,
    start,
    text_of,
)
from tests.docs.pages import ROOT, blocks, links, page
from tests.journal.homes import check_log, drain, of_kind

from openrouter_audit.journal.home import Home

PAGES = {path.stem for path in (ROOT / FOLDER).glob("*.md")} - {"README"}
WEBSOCKETS = "websockets"
"""Nothing of them is recorded: their page says so, and has a test of its own."""
REQUIREMENTS = ROOT / "requirements"
NO_CLIENTS = {"editables", "hatchling", "pytest"}
OTHER_NAMES = {"pydantic-ai-slim": "pydantic-ai", "ipykernel": "notebooks"}
ENVIRONMENTS = {WEBSOCKETS: (DEVELOPMENT,), **dict.fromkeys(SERVED, ("servers",))}
"""Of pages that are run in other ways than most."""


def required(path: str) -> set[str]:
    """Names of the packages that a list of requirements wants, without extras and versions."""
    return set(re.findall(r"^([a-z][\w-]*)", (REQUIREMENTS / path).read_text(), re.MULTILINE))


@pytest.mark.parametrize("name", pages_of(DEVELOPMENT))
def test_the_example_of_a_page_is_in_the_log_as_it_says(tmp_path, name):
    check_example(name, tmp_path)


@pytest.mark.parametrize("name", pages_of(DEVELOPMENT))
def test_a_request_of_the_example_that_fails_is_in_the_log_as_it_says(tmp_path, name):
    check_refusal(name, tmp_path)


def test_a_websocket_is_an_alert_and_no_call_as_its_page_says(tmp_path):
    home = Home(tmp_path / "home")
    (program,) = programs_of(WEBSOCKETS)
    (_, console), *_ = blocks(text_of(WEBSOCKETS), "console")
    with WebSocketServer() as server:
        environment = environment_of(server.port, home)
        ran = start(program, "app.py", tmp_path, environment)
        assert (0, "connected\n", "") == (ran.returncode, ran.stdout, ran.stderr)
        assert 1 == server.connections
    entries = drain(home)
    assert ["websocket_not_recorded"] == [alert["rule"] for alert in of_kind(entries, "alert.raised")]
    assert [] == of_kind(entries, "call.intent")
    doctor = python(tmp_path, environment, "-m", "openrouter_audit", "doctor")
    _, said = console.splitlines()
    assert said in doctor.stdout.splitlines()
    assert 2 == doctor.returncode
    check_log(home)


# None is forgotten ----------------------------------------------------------------------------------------------------


def test_every_page_is_run():
    assert {*RUNS, *SERVED, WEBSOCKETS} == PAGES
    for name, run in RUNS.items():
        assert run.environments, name
    for group in {group for run in RUNS.values() for group in run.environments} - {DEVELOPMENT}:
        tests = (ROOT / "tests" / "clients" / group / "test_pages.py").read_text()
        for part in (f'pages_of("{group}")', "check_example(name", "check_refusal(name"):
            assert part in tests, group
    tests = (ROOT / "tests" / "clients" / "servers" / "test_pages.py").read_text()
    assert set(SERVED) == set(re.findall(r'programs_of\("(\w+)"\)', tests))


@pytest.mark.parametrize("name", [*RUNS, *SERVED, WEBSOCKETS])
def test_a_page_is_run_with_what_it_says_to_install(name):
    (_, shell), *_ = blocks(text_of(name), "sh")
    installed = re.search(r"^pip install openrouter-audit (.*)$", shell, re.MULTILINE)[1]
    packages = {re.match(r"[\w-]+", package.strip("'"))[0] for package in installed.split()}
    for environment in ENVIRONMENTS.get(name) or RUNS[name].environments:
        path = "dev.txt" if environment == DEVELOPMENT else f"clients/{environment}.txt"
        assert packages <= required(path), environment


@pytest.mark.parametrize(
    ("group", "pages"),
    [("openai2", pages_of("openai2")), ("openai3", pages_of("openai3")), ("servers", [*SERVED, "openai"])],
)
def test_every_client_of_a_group_has_a_page_that_is_run_in_it(group, pages):
    """In the group of servers openai is what their programs ask with."""
    clients = required(f"clients/{group}.in") - NO_CLIENTS
    assert clients
    assert {OTHER_NAMES.get(client, client) for client in clients} <= set(pages)


def test_every_client_that_the_reference_names_has_a_page():
    """Each row of its tables of clients leads to one; the reference leads to all pages, and so does the index."""
    reference = page("docs/reference/clients.md")
    rows = re.findall(r"^\| (\[?`.*?) \|", reference.partition("\n## ")[0], re.MULTILINE)
    assert [1] * len(rows) == [len(links(row)) for row in rows]
    target = "../how-to/clients/{}.md".format
    assert {target(name) for name in RUNS} == {link for row in rows for link in links(row)}
    assert {target(name) for name in PAGES} <= set(links(reference))
    index = re.findall(r"^\| \[.*?\]\((.*?)\) \|", page(f"{FOLDER}/README.md"), re.MULTILINE)
    assert sorted(f"{name}.md" for name in PAGES) == sorted(index)
