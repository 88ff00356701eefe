"""What passes between a connection and the desk, and which requests are calls."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from openrouter_audit.testing.emulator.chat import error_in_200, whole_chat, whole_completion
from openrouter_audit.testing.emulator.chat_stream import chat_stream, completion_stream
from openrouter_audit.testing.emulator.embeddings import whole_embeddings
from openrouter_audit.testing.emulator.messages import envelope, message_error_in_200, message_stream, whole_message
from openrouter_audit.testing.emulator.plan import Plan, Telling
from openrouter_audit.testing.emulator.responses import response_stream, whole_response
from openrouter_audit.testing.emulator.switches import NOTHING_ASKED, Behaviour

BASE = "/api/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request as it came in."""

    method: str
    path: str
    """Without the query."""
    query: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    """After transfer coding."""
    too_large: bool = False
    """The body was longer than the server takes, and is left out."""


@dataclass(slots=True, kw_only=True)
class Answer:
    """What to send, how, and what it means."""

    status: int
    headers: list[tuple[str, str]]
    telling: Telling
    stream: bool = False
    behaviour: Behaviour = NOTHING_ASKED
    delay_ms: float = 0.0
    call: "Call | None" = None
    """None for requests that are no calls: nothing is booked."""


@dataclass(slots=True, kw_only=True)
class Call:
    """One call on its way into the books."""

    n: int
    request: Request
    key_digest: bytes | None
    generation_id: str | None = None
    plan: Plan | None = None
    interface: "Interface | None" = None
    requested: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """One kind of inference."""

    api_type: str
    """As generation records name it."""
    whole: Callable[[Plan], Telling]
    stream: Callable[[Plan], Telling] | None = None
    prompt: tuple[str, ...]
    """Members of the request, one of which must hold the prompt."""
    id_prefix: str = "gen-"
    speaks: bool = True
    """Answers in completion tokens."""
    error_in_200: Callable[[Plan], Telling] = error_in_200
    envelope: Callable[[Any, int, str | None], Any] | None = None
    """Puts the body of a refusal, its status and the generation id into an envelope of its own."""


INTERFACES = {
    f"{BASE}/chat/completions": Interface(
        api_type="completions", whole=whole_chat, stream=chat_stream, prompt=("messages", "prompt")
    ),
    f"{BASE}/completions": Interface(
        api_type="completions", whole=whole_completion, stream=completion_stream, prompt=("prompt", "messages")
    ),
    f"{BASE}/responses": Interface(
        api_type="completions", whole=whole_response, stream=response_stream, prompt=("input",)
    ),
    f"{BASE}/messages": Interface(
        api_type="completions",
        whole=whole_message,
        stream=message_stream,
        prompt=("messages",),
        error_in_200=message_error_in_200,
        envelope=envelope,
    ),
    f"{BASE}/embeddings": Interface(
        api_type="embeddings", whole=whole_embeddings, prompt=("input",), id_prefix="gen-emb-", speaks=False
    ),
}  # fmt: skip


def is_call(method: str, path: str) -> bool:
    """Whether the books list it: everything but GETs that neither cost nor carry content."""
    if method != "GET" or not path.startswith(BASE + "/"):
        return not path.endswith(("/__emulator/script", "/__emulator/calls"))
    rest = path[len(BASE) :]
    return not (
        rest in {"/credits", "/generation", "/providers", "/__emulator/calls"}
        or rest.startswith(("/models", "/key", "/endpoints"))
    )
