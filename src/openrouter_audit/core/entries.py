"""
What the journal can say: one frozen record per kind of entry, each field with its closed vocabulary.

An entry is stored for years and may stand in the hands of strangers, so nothing in it is free text. Every string has an
allow-list of characters and a length, every number a range, every list a bound; money is the decimal text that was
sent, times are integers in microseconds (UTC for `at_us`, a duration from the monotonic clock for the others). What a
person wrote, and who that person is, stays in the vault and appears here as a random reference or a keyed commitment.

The same records travel through the spool as *facts* (msgpack, `writer` and `subject` still unset) and are completed by
the sequencer, which encodes them with `canonical.encode`. A field that is null is left out of the entry: absent means
"not known", never zero. `v` counts the format of a kind; verifiers keep and ignore fields they do not know.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

Count = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Word = Annotated[str, Meta(max_length=64, pattern=r"^(?!sk-)[A-Za-z0-9_.:\-]+$")]
"""A word of somebody's vocabulary: a finish reason, an error code, an exception's class."""
Product = Annotated[str, Meta(max_length=64, pattern=r"^[A-Za-z0-9_.\-]+(/[A-Za-z0-9_.+!\-]+)?$")]
"""Name and version: `openai/3.54.0`."""
ModelName = Annotated[
    str, Meta(max_length=128, pattern=r"^(?!sk-)~?[A-Za-z0-9]?[A-Za-z0-9._:/+\-]*(@preset/[A-Za-z0-9._\-]+)?$")
]
ProviderName = Annotated[str, Meta(max_length=64, pattern=r"^(?!sk-)[A-Za-z0-9][A-Za-z0-9 ._/&()+\-]*$")]
ToolName = Annotated[str, Meta(max_length=64, pattern=r"^(?!sk-)[A-Za-z0-9_.:\-]+$")]
ToolCallId = Annotated[str, Meta(max_length=128, pattern=r"^(?!sk-)[A-Za-z0-9_.:|\-]+$")]
"""An identifier with the marks that some providers put into those of tool calls: `functions.find_invoice:0`."""
UrlPath = Annotated[str, Meta(max_length=128, pattern=r"^/[A-Za-z0-9/._~\-]*$")]
HostPort = Annotated[str, Meta(max_length=128, pattern=r"^[A-Za-z0-9.\-\[\]:]+$")]
Identifier = Annotated[str, Meta(max_length=128, pattern=r"^(?!sk-)[A-Za-z0-9_\-]+$")]
"""An opaque identifier made by OpenRouter or a provider: never parsed."""
Reference = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$")]
"""128 random bits of ours; means something only together with the vault."""
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
Origin = Annotated[str, Meta(max_length=255, pattern=r"^(?!sk-)[!-*,-~]+$")]
"""Name of a log: printable ASCII without spaces and plus signs, anything else percent-encoded."""
Money = Annotated[str, Meta(max_length=64, pattern=r"^-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?$")]
"""US dollars (credits), the digits as they were sent: `1e-7`, `0.0076509169000000005`."""
Quantity = Annotated[str, Meta(max_length=64, pattern=r"^-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?$")]
"""A number that may have a fraction, as its own text: temperatures, milliseconds of a foreign clock."""

Status = Literal["success", "error", "timeout", "cancelled", "abandoned", "refused", "unknown"]
Endpoint = Literal[
    "chat",
    "completions",
    "responses",
    "messages",
    "embeddings",
    "rerank",
    "images",
    "speech",
    "transcriptions",
    "videos",
    "batches",
    "decisions",
    "presets",
    "files",
    "data",
    "unclassified",
]
Mode = Literal["strict", "buffer", "best_effort"]
ContentMode = Literal["none", "preview", "redacted", "full"]

MAX_ENTRY_BYTES = 16 * 1024
"""Hard limit of an entry; C2SP bundles allow 65,535. Lists are bounded above, so only a fault of ours comes near it."""


class Writer(Struct, frozen=True, kw_only=True):
    """The frame an entry was made of, or, for what the sequencer says of a segment, the next number after its frames."""

    segment: Reference
    seq: Count


class Facts(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind"):
    """What every entry has."""

    v: Literal[1]
    id: Reference
    """The call's id in `call.*` kinds; else an id of the entry's own."""
    at_us: Count
    """UTC, microseconds since 1970."""
    writer: Writer | None = None
    anomalies: Annotated[tuple[Word, ...], Meta(max_length=32)] = ()
    """Names of fields whose value was outside its vocabulary and was left out."""


class ProviderPreferences(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The request's `provider` object (API.md section 3): where the caller allowed its data to go."""

    order: Annotated[tuple[ProviderName, ...], Meta(max_length=16)] = ()
    only: Annotated[tuple[ProviderName, ...], Meta(max_length=16)] = ()
    ignore: Annotated[tuple[ProviderName, ...], Meta(max_length=16)] = ()
    allow_fallbacks: bool | None = None
    require_parameters: bool | None = None
    data_collection: Word | None = None
    zdr: bool | None = None
    sort: Word | None = None


class Parameters(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What shaped the answer. Numbers with fractions keep their own text."""

    max_tokens: Count | None = None
    temperature: Quantity | None = None
    top_p: Quantity | None = None
    seed: Quantity | None = None
    reasoning_effort: Word | None = None
    service_tier: Word | None = None
    response_format: Word | None = None
    tool_choice: Word | None = None


class RouterAttempt(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One provider that OpenRouter tried."""

    provider: ProviderName | None = None
    model: ModelName | None = None
    status: Count | None = None


class RedirectHop(Struct, frozen=True, kw_only=True, omit_defaults=True):
    status: Count
    host: HostPort | None = None


class ToolCall(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A tool that the answer asks for. Its arguments are content and are not here."""

    id: ToolCallId | None = None
    name: ToolName | None = None
    argument_bytes: Count | None = None


class Found(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What redaction found of one class in a body. Where, and what, is not said."""

    kind: Word
    """`EMAIL`, `API_KEY`, or the name of a pattern from the settings."""
    count: Count


class CallIntent(Facts, frozen=True, kw_only=True, omit_defaults=True, tag="call.intent"):
    """About to send. Written before the first byte of the request leaves (P1, C24)."""

    group: Reference
    """Equal for all attempts of one logical call (C26)."""
    attempt: Count
    """Counted from 1 inside the group."""
    endpoint: Endpoint
    method: Word
    path: UrlPath | None = None
    """Without query; null when the endpoint is unclassified (the vault has it)."""
    host: HostPort | None = None
    sdk: Product | None = None
    model: ModelName | None = None
    models: Annotated[tuple[ModelName, ...], Meta(max_length=16)] = ()
    model_count: Count | None = None
    """How many models were asked for, when more than fit."""
    provider: ProviderPreferences | None = None
    stream: bool | None = None
    message_count: Count | None = None
    tools: Annotated[tuple[ToolName, ...], Meta(max_length=64)] = ()
    tool_count: Count | None = None
    tool_results: Annotated[tuple[ToolCallId, ...], Meta(max_length=64)] = ()
    """Ids of the tool calls whose results the request brings: those after the assistant's last message, and so not told before."""
    tool_result_count: Count | None = None
    """How many results there are, when more than fit."""
    plugins: Annotated[tuple[ToolName, ...], Meta(max_length=16)] = ()
    parameters: Parameters | None = None
    key_hash: Digest | None = None
    """SHA-256 of the API key: OpenRouter's own identity for it (API.md section 1)."""
    subject: Reference | None = None
    """The person, as the id of the person-and-month key; set by the sequencer from the private part."""
    request_bytes: Count | None = None
    request_commitment: Digest | None = None
    """C8: over the raw body as sent."""
    router_metadata: bool | None = None
    """The recorder added `X-OpenRouter-Metadata: enabled` to the request, as it was told to: nothing else is ever added."""
    content_mode: ContentMode | None = None
    """What is kept of this call's bodies, in the vault; absent where that is nothing."""
    findings: Annotated[tuple[Found, ...], Meta(max_length=32)] = ()
    """What redaction found in the request; absent also where it was not looked through."""
    mode: Mode | None = None
    policy: Digest | None = None
    """SHA-256 of the capture and content settings in force; `log.config` says what they are."""


class CallOutcome(Facts, frozen=True, kw_only=True, omit_defaults=True, tag="call.outcome"):
    """What came. Written before the caller gets the end of the answer (C10). `at_us` is when it ended."""

    status: Status
    complete: bool
    """The whole answer was seen: its length, or its terminal event (C5)."""
    http_status: Count | None = None
    error_code: Word | None = None
    error_type: Word | None = None
    error_source: Literal["http", "body", "choice", "stream", "client"] | None = None
    generation_id: Identifier | None = None
    generation_source: Literal["body", "header"] | None = None
    request_id: Identifier | None = None
    edge_ray: Identifier | None = None
    """`cf-ray`: the only correlation id when the edge fails."""
    model: ModelName | None = None
    provider: ProviderName | None = None
    finish_reason: Word | None = None
    native_finish_reason: Word | None = None
    tool_calls: Annotated[tuple[ToolCall, ...], Meta(max_length=64)] = ()
    """What the answer asks for."""
    tool_call_count: Count | None = None
    """How many tools, when more than fit."""
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    reasoning_tokens: Count | None = None
    cached_tokens: Count | None = None
    cache_write_tokens: Count | None = None
    cost: Money | None = None
    """`usage.cost`: what OpenRouter says in its answer it charged."""
    upstream_cost: Money | None = None
    """The provider's own bill; adds to `cost` under BYOK only (C7)."""
    is_byok: bool | None = None
    service_tier: Word | None = None
    response_cache: Word | None = None
    first_byte_us: Count | None = None
    first_token_us: Count | None = None
    last_byte_us: Count | None = None
    """Durations since the intent, from the monotonic clock."""
    response_bytes: Count | None = None
    chunks: Count | None = None
    """Pieces of body as the client library handed them on."""
    retry_after_ms: Count | None = None
    attempts: Annotated[tuple[RouterAttempt, ...], Meta(max_length=16)] = ()
    redirects: Annotated[tuple[RedirectHop, ...], Meta(max_length=16)] = ()
    response_commitment: Digest | None = None
    findings: Annotated[tuple[Found, ...], Meta(max_length=32)] = ()
    """What redaction found in the answer."""


class CallCost(Facts, frozen=True, kw_only=True, omit_defaults=True, tag="call.cost"):
    """What `GET /generation` said, or that it will not be known. Several are legal: the last one counts."""

    state: Literal["settled", "unresolved"]
    generation_id: Identifier | None = None
    reason: Word | None = None
    """Why unresolved: `not_found`, `unauthorized`, `cost_missing`, `id_mismatch`, …"""
    tries: Count | None = None
    http_status: Count | None = None
    key_hash: Digest | None = None
    total_cost: Money | None = None
    upstream_cost: Money | None = None
    cache_discount: Money | None = None
    is_byok: bool | None = None
    model: ModelName | None = None
    provider: ProviderName | None = None
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    reasoning_tokens: Count | None = None
    cached_tokens: Count | None = None
    request_id: Identifier | None = None
    finish_reason: Word | None = None
    native_finish_reason: Word | None = None
    cancelled: bool | None = None
    latency_ms: Quantity | None = None
    generation_time_ms: Quantity | None = None
    attempts: Annotated[tuple[RouterAttempt, ...], Meta(max_length=16)] = ()
    answer_commitment: Digest | None = None
    """C8's commitment, under the call's response key, over the raw bytes of the answer."""


class CallImported(Facts, frozen=True, kw_only=True, omit_defaults=True, tag="call.imported"):
    """A row of an older log. `at_us` is the time that row gives; nothing about it is proven."""

    source: Digest
    """SHA-256 of the imported file."""
    row: Count
    status: Status
    generation_id: Identifier | None = None
    model_requested: ModelName | None = None
    model_used: ModelName | None = None
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    total_cost: Money | None = None
    latency_ms: Quantity | None = None
    error_code: Word | None = None
    prompt_hash: Word | None = None
    subject: Reference | None = None


class LogOpened(Facts, frozen=True, kw_only=True, omit_defaults=True, tag="log.opened"):
    """The first frame of each segment: which process writes it. Host and pid are in the vault, under `id`."""

    recorder: Product
    python: Product | None = None
    process: Reference
    """Random, new for each process; all segments of one process carry it."""
    ordinal: Count
    """Place of this segment among those of its process."""
    mode: Mode
    policy: Digest | None = None


class LogClosed(Facts, frozen=True, kw_only=True, omit_defaults=True, tag="log.closed"):
    """The process ended on purpose: everything it acknowledged is above."""

    process: Reference


class LogLoss(Facts, frozen=True, kw_only=True, omit_defaults=True, tag="log.loss"):
    """
    Records that could not be kept (P6).

    The unit is a record: an intent is one, an outcome is one. A call of which nothing is in the log was lost as two, its
    intent and, once it ended, its outcome. No record is in two entries of this kind, nor in one beside `log.unreadable`.
    """

    reason: Word
    """
    Found in the file when its writer was gone: `torn_frame`, `missing_tail` (acknowledged, and not there; where threads wrote at
    once, give or take what was under way).

    Counted by the writer: of outcomes `disk_and_memory_full`, `process_ended` (they waited in memory when it did) and
    `too_large`; in mode `best_effort` of intents `full` (the bound of the spool), `disk`, `closed`, `fault`, each the intent of a
    call that went on, and of their outcomes `no_intent`; of calls that a fault kept from being watched `capture_fault`.
    """
    count: Count | None = None
    """How many records, where it is known."""
    skipped_bytes: Count | None = None
    """Of the segment, that are no frame."""
    from_us: Count | None = None
    until_us: Count | None = None
    """When the first and the last of them were given up."""


class LogSuccessor(Facts, frozen=True, kw_only=True, omit_defaults=True, tag="log.successor"):
    """The first entry of a log that goes on where another one must not be signed again, and what is lost in between."""

    former: Origin
    """The log before this one."""
    reason: Literal["restored", "put_back", "forked", "damaged", "journal_lost", "keys_lost"]
    kept_size: Count
    """How many entries of the former log are there."""
    kept_root: Digest
    """Root over these, so that this log vouches for them."""
    signed_size: Count | None = None
    """Size of the newest head of the former log that is known to have been signed; absent where it is not known."""
    signed_root: Digest | None = None
    lost_from: Count | None = None
    """First entry that was signed and is not there."""
    lost_until: Count | None = None
    """First entry that is not known to have been signed."""


class LogUnreadable(Facts, frozen=True, kw_only=True, omit_defaults=True, tag="log.unreadable"):
    """A frame that could not become an entry; its bytes are in `quarantine/`, named by their digest."""

    reason: Word
    frame_bytes: Count
    frame_digest: Digest


class LogConfig(Facts, frozen=True, kw_only=True, omit_defaults=True, tag="log.config"):
    """The settings in force from here on; `policy` is what intents refer to."""

    policy: Digest
    mode: Mode
    content_mode: Word
    enrich_scope: Word
    hosts: Annotated[tuple[HostPort, ...], Meta(max_length=64)] = ()
    router_metadata: bool | None = None
    redact_action: Word | None = None
    """What happens where redaction finds something, if that is more than redacting."""
    content_settings: Digest | None = None
    """Keyed hash of all settings about content and redaction; absent where none is set. They may name people, so no more is said."""


class AccessExported(Facts, frozen=True, kw_only=True, omit_defaults=True, tag="access.exported"):
    """Somebody is about to read rows in bulk; written before the first one is shown (P9)."""

    operator: Reference | None = None
    """Who, by reference into the vault."""
    what: Word
    format: Word
    tree_size: Count
    since_us: Count | None = None
    until_us: Count | None = None


class AccessContent(Facts, frozen=True, kw_only=True, omit_defaults=True, tag="access.content"):
    """Somebody is about to read what is kept of a call's bodies; written before it is shown (P9)."""

    call: Reference
    operator: Reference | None = None
    """Who, by reference into the vault."""
    reason: Reference | None = None
    """Why, in words of the operator's, by reference into the vault."""


class AlertRaised(Facts, frozen=True, kw_only=True, omit_defaults=True, tag="alert.raised"):
    """Something a person should look at."""

    rule: Word
    call: Reference | None = None
    expected: Money | None = None
    observed: Money | None = None


Entry = (
    CallIntent
    | CallOutcome
    | CallCost
    | CallImported
    | LogOpened
    | LogClosed
    | LogLoss
    | LogSuccessor
    | LogUnreadable
    | LogConfig
    | AccessExported
    | AccessContent
    | AlertRaised
)
KINDS: tuple[type[Facts], ...] = (
    CallIntent,
    CallOutcome,
    CallCost,
    CallImported,
    LogOpened,
    LogClosed,
    LogLoss,
    LogSuccessor,
    LogUnreadable,
    LogConfig,
    AccessExported,
    AccessContent,
    AlertRaised,
)


class Claimed(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    What a request says of who is asking: words of whoever wrote it, which nobody vouches for.

    Kept apart from what the application says in `attribution(...)`. A claim that stands for it, because the application said
    nothing, is where the attributed word would be, is named in `fills`, and is not repeated here.
    """

    user: str | None = None
    session: str | None = None
    metadata: dict[str, str] = {}
    trace: dict[str, str] = {}
    safety_identifier: str | None = None
    traceparent: str | None = None
    """The header as sent: its ids are the caller's, who may have made them of anything."""
    fills: tuple[Literal["user_id", "session_id"], ...] = ()


class Decision(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why the application sent the call where it did, in words of its own."""

    rule: str | None = None
    version: str | None = None
    arm: str | None = None


class Application(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the calling application presents itself to OpenRouter (API.md section 3), in its headers."""

    title: str | None = None
    """`X-OpenRouter-Title`, else `X-Title`."""
    referer: str | None = None
    categories: str | None = None


class Span(Struct, frozen=True, kw_only=True):
    """The OpenTelemetry span in which the application made the call."""

    trace_id: str
    """32 hex digits."""
    span_id: str
    """16 hex digits."""


class Context(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a call carried beside who it was for: free text all of it, one value of the vault that is erased as one."""

    claimed: Claimed | None = None
    decision: Decision | None = None
    application: Application | None = None
    span: Span | None = None


class Content(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is kept of one body: its text as the mode leaves it."""

    mode: ContentMode
    text: bytes
    """UTF-8, of JSON where the body was; in mode `full` whatever bytes it was."""
    whole_bytes: int
    """Length of `text` before anything was left out of it."""
    cut: Literal["size", "spool"] | None = None
    """Why something was: it is longer than `content.max_bytes`, or the spool was so full that no bodies go into it."""


class Private(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What may not stand in the tree: goes from the spool to the vault, and can be erased there (C9)."""

    commitment_key: bytes | None = None
    """32 random bytes, new for each call (C8)."""
    user: str | None = None
    reference: str | None = None
    """The subject reference this process proposes for `user` in this month; the vault has the last word."""
    tenant: str | None = None
    session: str | None = None
    purpose: str | None = None
    tags: dict[str, str] = {}
    context: Context | None = None
    base_url: str | None = None
    """Origin and base path of the recorded call: where its cost may be asked for (C7)."""
    path: str | None = None
    """Path of an unclassified call."""
    host: str | None = None
    pid: int | None = None
    operator: str | None = None
    reason: str | None = None
    content: Content | None = None
    """Of the request beside an intent, of the answer beside an outcome."""


def kind_of(record: Facts) -> str:
    """The entry's `kind`: the tag of its class."""
    return kind_of_class(type(record))


def kind_of_class(kind: type[Facts]) -> str:
    tag = kind.__struct_config__.tag
    return tag if isinstance(tag, str) else ""


def json_schema(kind: type[Facts]) -> dict[str, Any]:
    """JSON Schema (2020-12) of one kind of entry, as it ships in the wheel."""
    return msgspec.json.schema(kind)
