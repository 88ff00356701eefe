"""A notebook's kernel, driven as a notebook does: over its sockets, cell by cell."""

from __future__ import annotations

import sys
import time

import pytest
from jupyter_client.blocking import BlockingKernelClient
from tests.cli.programs import CALL, a_desk

ASYNC_CELL = """
import openai
async with openai.AsyncOpenAI() as client:
    question = {"model": "openai/gpt-4.1-mini", "messages": [{"role": "user", "content": "Hello"}]}
    await client.chat.completions.create(**question)
    print(len([chunk async for chunk in await client.chat.completions.create(**question, stream=True)]) > 1)
"""


@pytest.fixture
def desk(tmp_path):
    with a_desk(tmp_path) as desk:
        yield desk


def test_cells_of_a_notebook_are_recorded(desk):
    connection = desk.folder / "kernel.json"
    kernel = desk.start(sys.executable, "-m", "ipykernel_launcher", "-f", connection)
    deadline = time.monotonic() + 60
    while not (connection.exists() and connection.read_text().endswith("}")):
        assert kernel.poll() is None, kernel.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    notebook = BlockingKernelClient(connection_file=str(connection))
    notebook.load_connection_file()
    notebook.start_channels()
    try:
        notebook.wait_for_ready(timeout=60)
        for cell in (CALL, "call()", ASYNC_CELL, "call()"):
            reply = notebook.execute(cell, reply=True, timeout=60)
            assert "ok" == reply["content"]["status"], reply
        notebook.shutdown(reply=True, timeout=60)
    finally:
        notebook.stop_channels()
        out, err = kernel.communicate(timeout=60)

    assert 0 == kernel.returncode, out + err
    desk.check(1 + 2 + 1)
