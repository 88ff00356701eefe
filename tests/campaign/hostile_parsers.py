"""
The parsers of the campaign "hostile input": everything that reads bytes somebody else may have written.

Each function `parse_…` hands an input over and then holds the answer against what its reader relies on: what was parsed
can be written again and gives the same bytes; what capture states can always become an entry; an outcome comes exactly
once; a signature holds for the signed text alone.
"""

from __future__ import annotations

import copy
import gzip
import hashlib
import json
import os
import random
import tempfile
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import apsw
import msgspec
from tests.campaign.hostile import Parser, pieces_of
from tests.capture.recording import EXAMPLES, a_request, begun

from openrouter_audit.capture.content import CallContent, Treatment
from openrouter_audit.capture.decoding import decoder_for
from openrouter_audit.capture.failures import failure_of
from openrouter_audit.capture.hosts import HostSet
from openrouter_audit.capture.openrouter import caller_of, headers_of, retry_after_ms, route
from openrouter_audit.capture.request_facts import read_request
from openrouter_audit.cli.import_ import COLUMNS, BadRow, UnreadableFile, imported_call, open_table, pieces
from openrouter_audit.config import load_config
from openrouter_audit.core import canonical, checkpoints, merkle, notes, proofs, tiles
from openrouter_audit.core.entries import MAX_ENTRY_BYTES, CallImported, CallIntent, CallOutcome, Entry, Facts, kind_of
from openrouter_audit.core.redaction import DEFAULT as CONTENT_POLICY
from openrouter_audit.core.vocabulary import admit, admit_private
from openrouter_audit.errors import (
    CanonicalError,
    CheckpointError,
    ConfigError,
    NoteError,
    PolicyError,
    ProofFileError,
    TileError,
    VerificationError,
)
from openrouter_audit.journal.home import Home
from openrouter_audit.journal.segments import HEADER_BYTES, Frame, SegmentHeader, frame_head, scan
from openrouter_audit.journal.writer_state import WriterState, read_counts
from openrouter_audit.verification.calls import CallCheck

ORIGIN = "openrouter-audit.local/hostile"
REFERENCE = "ab" * 16
AT_US = 1_795_424_400_000_000
_STRICT = msgspec.msgpack.Decoder(Entry)
KEY = "sk-or-v1-" + "0123456789abcdef" * 4


def becomes_entry(facts: Facts) -> Facts:
    """What the sequencer does with facts: there must be an entry for them, and it must be canonical."""
    spooled = msgspec.msgpack.encode(facts)
    entry: Facts | None
    try:
        entry = _STRICT.decode(spooled)
    except msgspec.DecodeError:
        entry = admit(msgspec.msgpack.decode(spooled))
        assert entry is not None, f"{kind_of(facts)} became no entry"
        assert entry.anomalies
    assert len(canonical.encode(entry)) <= MAX_ENTRY_BYTES
    canonical.check(entry)
    return entry


# Spool ---------------------------------------------------------------------------------------------------------

MARKER = bytes.fromhex("0003fe0000112233")
"""Its first bytes are a plausible length, so that frames that begin inside of each other are tried, too."""


def segment_examples() -> list[bytes]:
    header = SegmentHeader(
        segment=bytes(range(16)), process=bytes(16), ordinal=3, created_us=AT_US, marker=MARKER, sealed_key=b"k" * 80
    ).encode()
    frames = [frame_head(MARKER, seq, (sealed := bytes([seq]) * (40 + seq))) + sealed for seq in range(6)]
    return [header + b"".join(frames), header + b"".join(frames[:2]) + frames[3][:-7] + b"".join(frames[4:]), header]


def parse_segment(data: bytes, _: random.Random) -> None:
    header = SegmentHeader.decode(data)
    if header is not None:
        assert SegmentHeader.decode(header.encode()) == header
    marker = MARKER if header is None else header.marker
    end = HEADER_BYTES
    for item in scan(memoryview(data)[HEADER_BYTES:], marker, HEADER_BYTES):
        assert item.offset >= end
        assert item.offset < item.end <= len(data)
        if isinstance(item, Frame):
            written = frame_head(marker, item.seq, bytes(item.sealed)) + bytes(item.sealed)
            assert data[item.offset : item.end] == written
        end = item.end


def state_examples() -> list[bytes]:
    path = _folder() / "state-example"
    state = WriterState(path)
    state.acknowledge(6)
    return [path.read_bytes()]


def parse_state(data: bytes, _: random.Random) -> None:
    counts = read_counts(written(data, "state"))
    assert counts is None or data.startswith(b"ORASTAT")


# Entries -------------------------------------------------------------------------------------------------------


@cache
def entry_facts() -> tuple[Facts, ...]:
    """Real facts of every example request and answer, and entries of the other kinds."""
    made: list[Facts] = []
    for path in sorted((EXAMPLES / "requests").iterdir()):
        exchange, intent, _ = begun(a_request(body=path.read_bytes()))
        made.append(intent)
    for name in ("chat/nonstream.json", "chat/nonstream_router_metadata.json", "responses/nonstream.json"):
        exchange, _, _ = begun(a_request())
        exchange.head(200, {b"x-request-id": b"req-1", b"cf-ray": b"8f-AMS"})
        outcome = exchange.body((EXAMPLES / name).read_bytes()) or exchange.end_of_body()
        assert outcome is not None
        made.append(outcome)
    made.append(CallImported(v=1, id=REFERENCE, at_us=AT_US, source="ab" * 32, row=1, status="success"))
    return tuple(made)


def entry_examples() -> list[bytes]:
    writer = {"segment": REFERENCE, "seq": 7}
    spoken: list[dict[str, Any]] = [
        {"kind": "log.loss", "reason": "torn_frame", "count": 3, "skipped_bytes": 100},
        {"kind": "log.unreadable", "reason": "seal", "frame_bytes": 9, "frame_digest": "ab" * 32},
        {"kind": "call.cost", "state": "unresolved", "reason": "not_found", "tries": 30},
        {"kind": "call.outcome", "status": "unknown", "complete": False},
    ]
    texts = [canonical.encode({"v": 1, "id": REFERENCE, "at_us": AT_US, "writer": writer, **one}) for one in spoken]
    return [*map(canonical.encode, entry_facts()), *texts]


def parse_entry(data: bytes, rng: random.Random) -> None:
    if rng.random() < 0.05:  # a check of a whole log, which costs more than its entries
        check_calls(data)
    value = canonical.decode(data)
    json.loads(data, object_pairs_hook=_unambiguous, parse_float=_refuse, parse_constant=_refuse)
    text = canonical.encode(value)
    assert canonical.decode(text) == value
    if isinstance(value, dict):
        entry = admit(value)
        if entry is not None:
            canonical.check(entry)


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs), "a key stands twice, and was let pass"
    return dict(pairs)


def _refuse(number: str) -> None:
    raise AssertionError(f"{number} was let pass")


def check_calls(data: bytes) -> None:
    check = CallCheck()
    check.add([(0, data), (1, data)])
    assert check.suspects in {True, False}
    check.look_closer([(0, data), (1, data)], {})
    for finding in check.finish(now_us=AT_US + 10**13):
        finding.as_json()
    assert all(isinstance(word, str) for word in check.compare_positions({}))


_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**53 - 1, 2**53, 2**63, 2**64, -(2**63), 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"),
    "", "a", "\x00", "a\n", "\ud800", "💩", "\u202e", "a" * 200, "sk-or-v1-" + "0" * 64, "x" * 70_000, b"", b"\xff" * 40, [], [[]],
    {}, {"a": 1}, {1: 2}, [None], [0.5], ["a"] * 100, [{"a": {}}], "1e5", "0.1", "١٢", "a b", "9" * 65, "../..",
)  # fmt: skip


def facts_examples() -> list[bytes]:
    return [b"x" * 8]


def parse_facts(data: bytes, rng: random.Random) -> None:
    """Facts as they are spooled, some of their values exchanged, also deep inside."""
    chosen = entry_facts()
    facts = msgspec.to_builtins(chosen[int(rng.random() * len(chosen))])
    for _ in range(1 + int(rng.random() * 4)):
        holder = facts
        while True:
            name = list(holder)[int(rng.random() * len(holder))] if holder else "v"
            inner = holder.get(name)
            if isinstance(inner, dict) and inner and rng.random() < 0.7:
                holder = inner
                continue
            break
        if rng.random() < 0.1:
            name = ("kind", "v", "anomalies", "writer", "subject", "unknown", "")[int(rng.random() * 7)]
        holder[name] = copy.deepcopy(_VALUES[int(rng.random() * len(_VALUES))])  # it may be changed itself, next
    try:
        facts = msgspec.msgpack.decode(msgspec.msgpack.encode(facts), type=dict[str, Any])
    except (OverflowError, UnicodeEncodeError, msgspec.DecodeError):
        return  # no frame can hold it
    entry = admit(facts)
    if entry is not None:
        canonical.check(entry)
        canonical.encode(entry)
    private = admit_private({"user": facts.get("model"), "tags": facts.get("provider"), "pid": facts.get("v"), **facts})
    msgspec.msgpack.encode(private)


# Proofs --------------------------------------------------------------------------------------------------------


@cache
def signers() -> tuple[notes.SignerKey, ...]:
    return tuple(
        notes.SignerKey(name=name, key_type=key_type, seed=hashlib.sha256(f"{name} {key_type}".encode()).digest())
        for name, key_type in (
            (ORIGIN, notes.ED25519),
            (ORIGIN, notes.ML_DSA_44_COSIGNATURE),
            ("witness.example", notes.ED25519_COSIGNATURE),
        )
    )


@cache
def signed() -> tuple[checkpoints.Checkpoint, bytes]:
    """A checkpoint of four entries and its note, signed by the log and a witness."""
    checkpoint = checkpoints.Checkpoint(origin=ORIGIN, tree_size=4, root_hash=_root())
    note = checkpoints.sign_checkpoint(checkpoint, signers()[:2], time_s=1_795_424_400)
    return checkpoint, checkpoints.add_signatures(note, [signers()[2].sign(notes.parse_note(note).text, time_s=5)])


def _leaves() -> list[bytes]:
    return [merkle.leaf_hash(b"record-%d" % number) for number in range(4)]


def _root() -> bytes:
    return merkle.node_hash(merkle.node_hash(*_leaves()[:2]), merkle.node_hash(*_leaves()[2:]))


@cache
def policy() -> checkpoints.Policy:
    return checkpoints.decode_policy(policy_examples()[0])


def checkpoint_examples() -> list[bytes]:
    foreign = checkpoints.Checkpoint(
        origin="a.example/log", tree_size=2**63 - 1, root_hash=_root(), extension_lines=("x",)
    )
    return [checkpoints.encode_checkpoint(signed()[0]).encode(), checkpoints.encode_checkpoint(foreign).encode()]


def parse_checkpoint(data: bytes, _: random.Random) -> None:
    text = data.decode("utf-8", "surrogateescape")
    checkpoint = checkpoints.decode_checkpoint(text)
    assert checkpoints.encode_checkpoint(checkpoint) == text


def note_examples() -> list[bytes]:
    checkpoint, note = signed()
    by_one = checkpoints.sign_checkpoint(checkpoint, signers()[:1], time_s=1)
    return [note, by_one, notes.format_note("a text\n\nof two parts\n", [signers()[0].sign("x\n")])]


def parse_note(data: bytes, _: random.Random) -> None:
    note = notes.parse_note(data)
    assert notes.format_note(note.text, note.signatures) == data
    opened = policy().open_checkpoint(data)
    assert opened.checkpoint == signed()[0], "another text than the signed one was taken for signed"


def key_examples() -> list[bytes]:
    return [signer.verifier_key.encode().encode() for signer in signers()] + [
        signer.encode().encode() for signer in signers()
    ]


def parse_key(data: bytes, _: random.Random) -> None:
    text = data.decode("utf-8", "surrogateescape")
    kind = notes.SignerKey if text.startswith("PRIVATE") else notes.VerifierKey
    assert kind.decode(text).encode() == text


def path_examples() -> list[bytes]:
    return [
        b"tile/0/x001/x234/067.p/44", b"tile/entries/000", b"tile/63/255.p/255", b"tile/entries/x036/x028/x797/x018/x963/967",
    ]  # fmt: skip


def parse_path(data: bytes, _: random.Random) -> None:
    text = data.decode("utf-8", "surrogateescape")
    assert tiles.encode_path(tiles.decode_path(text)) == text
    assert text.isascii()
    assert ".." not in text.split("/")


def bundle_examples() -> list[bytes]:
    return [tiles.encode_bundle([b"record-%d" % number for number in range(count)]) for count in (1, 4, 256)] + [
        tiles.encode_bundle([b"", b"a" * 1000, b""])
    ]


def parse_bundle(data: bytes, rng: random.Random) -> None:
    count = (0, 1, 3, 4, 256, -1, 2**63)[int(rng.random() * 7)]
    entries = tiles.decode_bundle(data, count=count)
    if entries:
        assert tiles.encode_bundle(entries) == data
    tiles.split_tile(data, len(data) // 32)
    tiles.tile_root(data)


def proof_examples() -> list[bytes]:
    leaves = _leaves()
    path = (leaves[3], merkle.node_hash(*leaves[:2]))
    return [
        proofs.encode_proof(proofs.ProofFile(leaf_index=2, inclusion_path=path, checkpoint=signed()[1], extra=extra))
        for extra in (None, b"free bytes")
    ]


def parse_proof(data: bytes, _: random.Random) -> None:
    proof = proofs.decode_proof(data)
    assert proofs.encode_proof(proof) == data
    opened = proofs.verify_proof(proof, leaf_hash=_leaves()[2], policy=policy())
    assert opened.checkpoint == signed()[0]
    assert (proof.leaf_index, proof.inclusion_path) == _proven()


def _proven() -> tuple[int, tuple[bytes, ...]]:
    leaves = _leaves()
    return 2, (leaves[3], merkle.node_hash(*leaves[:2]))


def policy_examples() -> list[bytes]:
    log, log_pq, witness = (signer.verifier_key.encode() for signer in signers())
    simple = f"log {log}\nlog {log_pq}\nwitness w {witness}\nquorum none\n"
    root = notes.encode_base64(_root())
    full = (
        f"# comment\nlog\t{log} https://log.example/\nlog {log_pq}\nsize {ORIGIN} 4 {root}\nwitness w {witness}\n"
        "group g any w\ngroup h 1 g\nquorum h\n"
    )
    return [simple.encode(), full.encode()]


def parse_policy(data: bytes, _: random.Random) -> None:
    read = checkpoints.decode_policy(data)
    assert checkpoints.decode_policy(checkpoints.encode_policy(read)) == read
    assert read.logs


# Answers and requests ------------------------------------------------------------------------------------------

_PATHS = {"chat": "/api/v1/chat/completions", "responses": "/api/v1/responses", "messages": "/api/v1/messages"}
_SSE = {b"content-type": b"text/event-stream"}
_ANSWER_WORDS = (
    b'"usage"', b'"error"', b'"id"', b'"cost"', b'"choices"', b'"finish_reason"', b'"error":{"code":', b"data: [DONE]\n\n",
    b"data: ", b"data:", b": OPENROUTER PROCESSING\n\n", b"event: error\n", b'"type":"response.completed"', b"[DONE]",
    b'{"usage":{"cost":"', b"message_stop", b'"response":{', b'"usage":{"prompt_tokens":1e400,"cost":NaN}', b'"cost":1e-7',
)  # fmt: skip


def _files(folder: str, ending: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((EXAMPLES / folder).glob(f"*{ending}"))]


@cache
def _begun_requests() -> dict[str, Any]:
    return {name: a_request(path) for name, path in _PATHS.items()}


def run_exchange(
    data: bytes, rng: random.Random, endpoint: str, headers: dict[bytes, bytes], status: int = 200
) -> CallOutcome:
    """One answer in random pieces with a random ending: the outcome comes exactly once and becomes an entry."""
    exchange, _, _ = begun(_begun_requests()[endpoint])
    exchange.head(status, headers)
    outcomes = [exchange.body(piece) for piece in pieces_of(data, rng)]
    ending = rng.random()
    if ending < 0.7:
        outcomes.append(exchange.end_of_body())
    elif ending < 0.8:
        outcomes.append(exchange.failed(failure_of(TimeoutError())))
    outcomes += [exchange.closed(), exchange.end_of_body(), exchange.body(b"data: [DONE]\n\n"), exchange.closed()]
    given = [outcome for outcome in outcomes if outcome is not None]
    assert len(given) == 1, f"{len(given)} outcomes"
    entry = becomes_entry(given[0])
    assert isinstance(entry, CallOutcome)
    return entry


def parse_stream(data: bytes, rng: random.Random) -> None:
    endpoint = ("chat", "responses", "messages")[int(rng.random() * 3)]
    run_exchange(data, rng, endpoint, _SSE)


def stream_examples() -> list[bytes]:
    return [
        *_files("chat", ".sse"),
        *_files("responses", ".sse"),
        *_files("messages", ".sse"),
        *_files("images", ".sse"),
    ]


def _body_parser(endpoint: str) -> Any:
    def parse(data: bytes, rng: random.Random) -> None:
        headers = {b"content-type": b"application/json", b"content-length": str(len(data)).encode()}
        run_exchange(data, rng, endpoint, headers, 200 if rng.random() < 0.8 else 429)

    return parse


_COST = b"0.00031415926535897932"
_USAGE = b'"usage":{"prompt_tokens":11,"completion_tokens":22,"total_tokens":33,"cost":' + _COST + b"}"


def damage_examples() -> list[bytes]:
    return [b"Invoice INV-7 is overdue", *(path[:4000] for path in _files("chat", ".json"))]


def parse_damaged_content(data: bytes, rng: random.Random) -> None:
    """Whatever a model says inside its answer, and however it is damaged: the price beside it is still read (P7)."""
    junk = data.replace(b'"usage"', b"").replace(b"\n", b" ").replace(b"\r", b" ")
    if rng.random() < 0.02:
        junk = (junk + b" ") * (200_000 // (len(junk) + 1))
    front = b'{"id":"gen-1-a","model":"a/b","choices":[{"%s":{"content":"' % (b"message", b"delta")[rng.random() < 0.5]
    back = b'"},"finish_reason":"stop"}],' + _USAGE + b"}"
    if rng.random() < 0.5:
        outcome = run_exchange(front + junk + back, rng, "chat", {b"content-type": b"application/json"})
        if outcome.complete:
            assert outcome.cost == _COST.decode(), "the price was not read"
    else:
        lines = (
            b"data: "
            + front
            + junk
            + b'"}}]}\n\ndata: {"id":"gen-1-a","choices":[],'
            + _USAGE
            + b"}\n\ndata: [DONE]\n\n"
        )
        assert run_exchange(lines, rng, "chat", _SSE).cost == _COST.decode(), "the price was not read"


def request_examples() -> list[bytes]:
    return [
        *_files("requests", ".json"),
        b'{"model":"a/b","models":["a/b","c/d"],"fallbacks":[{"model":"e/f"}],"provider":{"order":["x"],"zdr":true,'
        b'"sort":{"by":"price"}},"stream":true,"messages":[{"role":"user","content":"hi"}],"tools":[{"type":"function",'
        b'"function":{"name":"f"}}],"plugins":[{"id":"web"}],"user":"u","session_id":"s","metadata":{"user_id":"m"},'
        b'"max_tokens":5,"temperature":0.7,"top_p":1e-1,"seed":-4,"reasoning":{"effort":"high"},"tool_choice":"auto",'
        b'"response_format":{"type":"json_schema"},"text":{"format":{"type":"text"}},"input":["a","b"]}',
    ]


def parse_request(data: bytes, _: random.Random) -> None:
    asked = read_request(data)
    intent = CallIntent(
        v=1, id=REFERENCE, at_us=AT_US, group=REFERENCE, attempt=1, endpoint="chat", method="POST", **asked.fields
    )
    becomes_entry(intent)
    msgspec.msgpack.encode((asked.user, asked.session))  # goes to the vault


def content_examples() -> list[bytes]:
    return [
        *stream_examples(),
        *_files("chat", ".json"),
        *_files("errors", ".json"),
        *_files("messages", ".json"),
        *request_examples(),
    ]


def parse_content(data: bytes, rng: random.Random) -> None:
    """As a request and as an answer, whole and in pieces, in each mode: what is kept goes through the spool, and no fault of ours is met."""
    content = CallContent(
        CONTENT_POLICY, Treatment(rng.choice(("preview", "redacted", "full")), "report"), bytes(32), 1024
    )
    content.take_request(data, b"application/json")
    content.begin_answer(rng.choice((b"application/json", b"text/event-stream", b"", b"audio/mpeg")))
    at = 0
    while at < len(data):
        size = rng.choice((1, 7, 1000, 100_000)) if len(data) < 10_000 else 65_536
        content.feed(data[at : at + size])
        at += size
    found = content.end_answer()
    if content.error is not None:
        raise content.error
    for kept in (content.request, content.answer):
        assert kept is None or len(kept.text) <= 1024
        msgspec.msgpack.encode(kept)
    becomes_entry(CallOutcome(v=1, id=REFERENCE, at_us=AT_US, status="success", complete=True, findings=found))


def head_examples() -> list[bytes]:
    return [
        b"POST /api/v1/chat/completions\nauthorization: Bearer " + KEY.encode() + b"\nuser-agent: OpenAI/Python 3.54.0\n"
        b"x-stainless-package-version: 3.54.0\ncontent-length: 20\nretry-after: 2\nx-request-id: req-1\n\n{}",
        b"GET /api/v1/generation?id=gen-1\nx-api-key: " + KEY.encode() + b"\nuser-agent: speakeasy-sdk/python 1.3.84 2.9 1 openrouter\n"
        b"retry-after-ms: 1.5\ncontent-type: text/event-stream\ncontent-encoding: gzip\nx-generation-id: gen-1\n\ndata: {}\n\n",
        b"DELETE /proxy/api/alpha/files/file-1/content\ncf-ray: 8f-AMS\nx-provider-name: OpenAI\ncontent-encoding: deflate\n\n",
    ]  # fmt: skip


def parse_head(data: bytes, rng: random.Random) -> None:
    """A request line, header fields and a body, taken apart roughly: whatever an HTTP library may let through."""
    head, _, body = data.partition(b"\n\n")
    line, *rows = head.split(b"\n")
    method, _, path = line.decode("latin-1").partition(" ")
    fields = [(name.strip(), value.strip()) for name, _, value in (row.partition(b":") for row in rows)]
    found = route(method, path)
    assert found.path is None or found.path.isascii()
    headers = headers_of(fields)
    caller = caller_of(headers)
    assert KEY not in repr(caller)
    wait = retry_after_ms(headers)
    assert wait is None or 0 <= wait < 2**53
    HostSet([path]).watches(method, 443)
    exchange, intent, _ = begun(a_request(path, method=method, headers=fields, body=body))
    becomes_entry(intent)
    exchange.head(int(rng.random() * 600), headers)
    outcomes = [exchange.body(piece) for piece in pieces_of(body, rng)] + [exchange.end_of_body(), exchange.closed()]
    given = [outcome for outcome in outcomes if outcome is not None]
    assert len(given) == 1
    becomes_entry(given[0])


def encoded_examples() -> list[bytes]:
    plain = (EXAMPLES / "chat" / "nonstream.json").read_bytes()
    raw = zlib.compressobj(wbits=-15)
    return [
        b"\x00" + gzip.compress(plain, mtime=0),
        b"\x01" + zlib.compress(plain),
        b"\x01" + raw.compress(plain) + raw.flush(),
        b"\x00" + gzip.compress(bytes(300_000), mtime=0),
    ]


def parse_encoded(data: bytes, rng: random.Random) -> None:
    """The first byte says which encoding is claimed; the rest is the body."""
    encoding = (b"gzip", b"deflate", b"x-gzip", b"br", b"zstd", b"gzip, br", b"")[data[0] % 7 if data else 0]
    headers = {b"content-type": b"application/json", b"content-encoding": encoding}
    run_exchange(data[1:], rng, "chat", headers)
    decoder = decoder_for(encoding.decode())
    try:
        for piece in pieces_of(data[1:], rng) if decoder is not None else ():
            assert all(len(step) <= 256 * 1024 for step in decoder.decode(piece))
    except (zlib.error, EOFError):
        pass


# Files of a home and of other programs -------------------------------------------------------------------------


@cache
def _folder() -> Path:
    shared = Path("/dev/shm")
    folder = tempfile.TemporaryDirectory(prefix="hostile", dir=shared if os.access(shared, os.W_OK) else None)
    _KEPT.append(folder)
    return Path(folder.name)


_KEPT: list[tempfile.TemporaryDirectory[str]] = []


def written(data: bytes, name: str) -> Path:
    """A file with these bytes, the same file each time."""
    path = _folder() / name
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)
    return path


def config_examples() -> list[bytes]:
    return [
        b'[capture]\nmode = "strict"\nhosts = ["127.0.0.1:8080", "proxy.example"]\nspool_max_bytes = 1073741824\n'
        b'log_user_ids = true\n[content]\nmode = "none"\n[enrich]\nscope = "missing"\nhorizon_hours = 24.5\n'
        b'max_per_second = 5\n[report]\ntz = "Europe/Berlin"\n',
        b'capture.mode = "buffer"\nenrich = { scope = "off", horizon_hours = 1e3 }\n',
        b'[content]\nmode = "preview"\nmax_bytes = 2048\nrules = [{user = "u", tag = "a=b", model = "x/*", mode = "full", action = "block"}]\n'
        b'[redact]\naction = "report"\noff = ["IP"]\nnational_ids = ["DE"]\npatterns = [{name = "ORDER", pattern = "ORD-[0-9]{6}"}]\n',
        b"OPENROUTER_AUDIT_REDACT_OFF=PHONE, IP",
        b"OPENROUTER_AUDIT_ENRICH_MAX_PER_SECOND=2.5",
        b"OPENROUTER_AUDIT_CAPTURE_HOSTS=a.example, b.example:80",
        b"OPENROUTER_AUDIT_CAPTURE_SPOOL_MAX_BYTES=1073741824",
    ]


def parse_config(data: bytes, _: random.Random) -> None:
    environ = {}
    if b"OPENROUTER" in data:
        name, _, value = data.decode("utf-8", "surrogateescape").partition("=")
        environ = {name: value}
    config = load_config(_folder() / "absent" if environ else written(data, "config.toml"), environ)
    assert 64 == len(config.policy(mode="buffer", key=bytes(32)))
    config.redaction_policy()
    assert 0 < config.enrich.horizon_hours * 3600e6 < 2**63
    assert 0 < config.enrich.max_per_second < 2**63


def home_head_examples() -> list[bytes]:
    return [f"{ORIGIN} 4 {notes.encode_base64(_root())}\n".encode()]


def parse_home_head(data: bytes, _: random.Random) -> None:
    written(data, "head")
    read = Home(_folder()).read_head()
    assert read is None or (isinstance(read[1], int) and isinstance(read[2], str))


@cache
def seed_database() -> bytes:
    """The older log's own SQLite file, four rows."""
    path = _folder() / "seed.db"
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA page_size = 1024").fetchall()
    connection.execute(
        "CREATE TABLE audit_log (id INTEGER PRIMARY KEY, timestamp TEXT, generation_id TEXT, model_requested TEXT,"
        " model_used TEXT, prompt_tokens INTEGER, completion_tokens INTEGER, total_cost REAL, latency_ms REAL,"
        " status TEXT, user_id TEXT, prompt_hash TEXT, error_code TEXT)"
    )
    connection.executemany(
        f"INSERT INTO audit_log VALUES ({', '.join('?' * len(COLUMNS))})", [tuple(row.values()) for row in seed_rows()]
    )
    connection.close()
    return path.read_bytes()


def seed_rows() -> list[dict[str, Any]]:
    return [
        dict(
            zip(
                COLUMNS,
                (number, "2026-11-23T09:00:00", f"gen-{number}", "a/b", "a/b", 10, 20, 0.5, 812.5, "success", "alice", "ab12", None),
                strict=True,
            )
        )
        for number in range(1, 5)
    ]  # fmt: skip


def parse_seed_file(data: bytes, _: random.Random) -> None:
    path = written(data, "import.db")
    with open_table(path) as table:
        for piece in pieces(table):
            for row in piece:
                try:
                    if row is not None:
                        becomes_imported(row)
                except BadRow:
                    continue


_STORABLE = tuple(
    value
    for value in _VALUES
    if isinstance(value, float | bytes | None)
    or (isinstance(value, str) and "\ud800" not in value)
    or (type(value) is int and -(2**63) <= value < 2**63)
)
"""What a row of SQLite can hold."""


def parse_seed_row(data: bytes, rng: random.Random) -> None:
    row = seed_rows()[0]
    for _ in range(1 + int(rng.random() * 3)):
        name = COLUMNS[int(rng.random() * len(COLUMNS))]
        choice = rng.random()
        if choice < 0.5:
            row[name] = _STORABLE[int(rng.random() * len(_STORABLE))]
        else:
            row[name] = data.decode("utf-8", "replace") if choice < 0.9 else data
    becomes_imported(row)


def becomes_imported(row: dict[str, Any]) -> None:
    facts, private = imported_call(row, source="ab" * 32)
    becomes_entry(facts)
    msgspec.msgpack.encode(private)
    assert len(private.user or "") <= 1024


def row_examples() -> list[bytes]:
    return [b"2026-11-23T09:00:00.123456+01:00", b"2026-11-23 09:00:00", b"gen-1", b"a/b:free", b"success", b"0.5"]


PARSERS: Sequence[Parser] = (
    Parser(name="spool segment", examples=segment_examples, parse=parse_segment, words=(MARKER, MARKER * 3, b"ORAUDIT\x01")),
    Parser(name="writer state", examples=state_examples, parse=parse_state),
    Parser(name="entry", examples=entry_examples, parse=parse_entry, declared=(CanonicalError,)),
    Parser(name="facts", examples=facts_examples, parse=parse_facts),
    Parser(name="checkpoint", examples=checkpoint_examples, parse=parse_checkpoint, declared=(CheckpointError,)),
    Parser(name="note", examples=note_examples, parse=parse_note, declared=(VerificationError,)),
    Parser(name="key text", examples=key_examples, parse=parse_key, declared=(NoteError,)),
    Parser(name="tile path", examples=path_examples, parse=parse_path, declared=(TileError,)),
    Parser(name="bundle", examples=bundle_examples, parse=parse_bundle, declared=(TileError,)),
    Parser(name="proof file", examples=proof_examples, parse=parse_proof, declared=(ProofFileError, VerificationError)),
    Parser(
        name="policy", examples=policy_examples, parse=parse_policy, declared=(PolicyError,),
        words=(b"log ", b"witness ", b"group ", b"quorum ", b"any", b"all", b"none", b"size "),
    ),
    Parser(name="SSE", examples=stream_examples, parse=parse_stream, words=_ANSWER_WORDS),
    Parser(name="chat JSON", examples=lambda: _files("chat", ".json") + _files("errors", ".json"), parse=_body_parser("chat"),
           words=_ANSWER_WORDS),
    Parser(name="responses JSON", examples=lambda: _files("responses", ".json"), parse=_body_parser("responses"),
           words=_ANSWER_WORDS),
    Parser(name="messages JSON", examples=lambda: _files("messages", ".json"), parse=_body_parser("messages"),
           words=_ANSWER_WORDS),
    Parser(name="price in damaged answers", examples=damage_examples, parse=parse_damaged_content,
           words=tuple(word for word in _ANSWER_WORDS if b"cost" not in word)),
    Parser(name="request JSON", examples=request_examples, parse=parse_request),
    Parser(name="content", examples=content_examples, parse=parse_content, words=_ANSWER_WORDS),
    Parser(name="URL and header fields", examples=head_examples, parse=parse_head),
    Parser(name="content-encoding", examples=encoded_examples, parse=parse_encoded),
    Parser(name="config.toml", examples=config_examples, parse=parse_config, declared=(ConfigError,),
           words=(b"[[", b"1e999", b"inf", b"1979-05-27T07:32:00Z", b'"""', b"'''", b"capture", b"= [")),
    Parser(name="head file", examples=home_head_examples, parse=parse_home_head),
    Parser(name="seed file", examples=lambda: [seed_database()], parse=parse_seed_file, declared=(UnreadableFile,)),
    Parser(name="seed row", examples=row_examples, parse=parse_seed_row, declared=(BadRow,)),
)  # fmt: skip
