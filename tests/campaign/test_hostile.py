"""
Hostile input (issue 3, point 7): only declared errors, at most 1 s and 64 MiB, and every changed byte of a log found.

Random inputs come from `hostile_parsers.py`; here stand the runs, and what is too large or too wicked to be met by chance.
`HOSTILE_SEED` repeats a run, `HOSTILE_COUNT` sets how many inputs each parser gets.
"""

from __future__ import annotations

import gzip
import json
import random
import zlib

import apsw
import pytest
from tests.campaign import fuzz_exchange, fuzz_note
from tests.campaign.hostile import COUNT, LONG_COUNT, cpu_bound, memory_bound, new_seed, run_campaign
from tests.campaign.hostile_log import WITHOUT_PROOF, change_all, change_file, make_log
from tests.campaign.hostile_parsers import (
    MARKER,
    PARSERS,
    becomes_entry,
    note_examples,
    parse_encoded,
    policy,
    policy_examples,
    run_exchange,
)
from tests.campaign.results import Result, recorded
from tests.capture.recording import a_request, begun

from openrouter_audit.capture.decoding import decoder_for
from openrouter_audit.capture.openrouter import headers_of, retry_after_ms
from openrouter_audit.capture.request_facts import read_request
from openrouter_audit.cli.import_ import UnreadableFile, open_table, pieces
from openrouter_audit.config import load_config
from openrouter_audit.core import canonical, checkpoints, notes, proofs, tiles
from openrouter_audit.errors import (
    CanonicalError,
    CheckpointError,
    ConfigError,
    NoteError,
    PolicyError,
    ProofFileError,
    TileError,
    UnknownOrigin,
)
from openrouter_audit.journal.segments import Damage, Frame, frame_head, scan
from openrouter_audit.verification.calls import CallCheck

BRACKETS = 100_000
SSE = {b"content-type": b"text/event-stream"}
JSON = {b"content-type": b"application/json"}
USAGE = b'"usage":{"prompt_tokens":11,"completion_tokens":22,"cost":0.00031415926535897932}'
LAST = b'data: {"id":"gen-1-a","choices":[],' + USAGE + b"}\n\ndata: [DONE]\n\n"
COST = "0.00031415926535897932"
NUMBERS = [
    "9223372036854775808", "18446744073709551616", "-9223372036854775809", "9007199254740992", "-0", "1e400", "0.1", "NaN", "Infinity",
    "-Infinity", "1" + "0" * 5000, "0." + "1" * 5000,
]  # fmt: skip


# Random inputs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.slug)
def test_malformed_input_gives_declared_errors_alone(parser):
    """A sample of the campaign below; the seed is printed and set by HOSTILE_SEED."""
    run_campaign(parser, count=COUNT, seed=new_seed())


@pytest.mark.long
@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.slug)
def test_a_million_malformed_inputs_give_declared_errors_alone(parser):
    run_campaign(parser, count=LONG_COUNT, seed=new_seed())


# Every byte of a log -------------------------------------------------------------------------------------------


def run_changes(folder, *, sample, tile_sample, file_count, name):
    seed = new_seed()
    rng = random.Random(seed)
    result = Result(
        campaign=name, what="every byte of a log of 200 entries and of a tile, and bytes of its file, changed in 3 ways",
        unit="changes", seed=seed, again=f"HOSTILE_SEED={seed} python3 dev.py test --long tests/campaign/test_hostile.py -k byte",
    )  # fmt: skip
    with recorded(result):
        (folder / "log").mkdir()
        (folder / "tile").mkdir()
        log, trusted, path = make_log(folder / "log", 200)
        of_log = change_all(log, trusted, rng=rng, sample=sample)
        larger, larger_trusted, _ = make_log(folder / "tile", 300)
        of_tile = change_all(larger, larger_trusted, rng=rng, sample=tile_sample, kinds=frozenset({"tile"}))
        of_file = change_file(path, log, trusted, rng=rng, count=file_count)
        all_of_it = (of_log, of_tile, of_file)
        result.points = sum(one.changes for one in all_of_it)
        overlooked = [line for one in all_of_it for line in one.overlooked]
        raised = [line for one in all_of_it for line in one.raised]
        result.broken = {"overlooked": len(overlooked), "undeclared errors": len(raised)}
        result.figures = {
            "named as tampered": f"{sum(one.tampered for one in all_of_it):,}",
            "cannot tell (exit 3)": f"{sum(one.cannot_tell for one in all_of_it):,}",
            "columns that prove nothing": str(len(WITHOUT_PROOF)),
        }
    assert not overlooked + raised, "\n".join((overlooked + raised)[:20])


def test_a_changed_byte_anywhere_in_a_log_is_found_and_named(tmp_path):
    """A seeded sample of the campaign below."""
    run_changes(tmp_path, sample=1500, tile_sample=200, file_count=600, name="7-hostile-log")


@pytest.mark.long
def test_every_byte_of_a_log_changed_in_three_ways_is_found_and_named(tmp_path):
    run_changes(tmp_path, sample=None, tile_sample=None, file_count=60_000, name="7-hostile-log")


# A stream and a body that do not end ---------------------------------------------------------------------------


def fed(pieces_, headers, path="/api/v1/chat/completions"):
    """An exchange that is told these pieces: every outcome it gives, also after the end."""
    exchange, _, _ = begun(a_request(path))
    exchange.head(200, headers)
    given = [outcome for piece in pieces_ if (outcome := exchange.body(piece)) is not None]
    given += [outcome for outcome in (exchange.end_of_body(), exchange.closed()) if outcome is not None]
    assert 1 == len(given)
    return becomes_entry(given[0])


def test_a_line_of_100_mb_in_a_stream_is_passed_over_and_the_price_after_it_read():
    """It comes in pieces, as from a socket; 128 KiB of it are kept."""
    piece = b'{"choices":[{"delta":{"content":"' + b"a" * 65_000
    with memory_bound(4 * 2**20):
        outcome = fed([b"data: ", *[piece] * 1600, b"\n\n", LAST], SSE)

    assert (COST, "success", True) == (outcome.cost, outcome.status, outcome.complete)
    assert outcome.response_bytes > 100_000_000


def test_a_line_of_100_mb_that_holds_the_price_itself_is_scanned_for_it():
    text = b'data: {"id":"gen-1-a","model":"a/b","choices":[{"delta":{"content":"'
    with memory_bound(4 * 2**20):
        outcome = fed([text, *[b"a" * 65_536] * 1600, b'"}}],' + USAGE + b"}\n\n", b"data: [DONE]\n\n"], SSE)

    assert (COST, "gen-1-a", "a/b") == (outcome.cost, outcome.generation_id, outcome.model)


def test_a_body_of_100_mb_tells_its_price():
    front = b'{"id":"gen-1-a","model":"a/b","choices":[{"message":{"content":"'
    with memory_bound(4 * 2**20):
        outcome = fed([front, *[b"\\n[{" * 16_384] * 1600, b'"}}],' + USAGE + b"}"], JSON)

    assert (COST, "gen-1-a") == (outcome.cost, outcome.generation_id)


def test_megabytes_of_line_ends_in_pieces_of_one_byte_and_more_keep_the_memory_flat():
    with memory_bound(4 * 2**20):
        outcome = fed([*[b"\r"] * 50_000, *[b"\n\r\n\r" * 16_384] * 100, LAST], SSE)

    assert COST == outcome.cost


@pytest.mark.parametrize("nest", [b"[", b'{"a":', b'[{"a":'])
def test_100_000_brackets_in_an_answer_hide_no_price(nest):
    """No recursion goes that deep: the third rung of the ladder reads the price."""
    body = b'{"id":"gen-1-a","choices":[{"message":{"content":' + nest * BRACKETS + b"}}]," + USAGE + b"}"
    for headers, text in ((JSON, body), (SSE, b"data: " + body + b"\n\ndata: [DONE]\n\n")):
        with memory_bound():
            assert COST == fed([text], headers).cost


def test_a_stream_nested_in_itself_gives_one_outcome():
    """Events that hold events that hold events, and each pretends to be the last one."""
    event = b'{"type":"response.completed","response":{"id":"gen-1-a",' + USAGE + b"}}"
    for _ in range(8):
        quoted = json.dumps("data: " + event.decode() + "\n\n").encode()
        event = b'{"type":"response.output_text.delta","delta":' + quoted + b',"response":' + event + b"}"
    outcome = fed([b"data: " + event[:5000], event[5000:] + b"\n\n", b"data: [DONE]\n\n" * 3], SSE, "/api/v1/responses")

    assert "success" == outcome.status


@pytest.mark.parametrize(
    "text", [*NUMBERS, '"\\ud800"', '"\\u0000"', "[" * 50 + "]" * 50, "null", '"' + "9" * 5000 + '"']
)
@pytest.mark.parametrize("member", ["prompt_tokens", "cost", "is_byok", "prompt_tokens_details"])
def test_a_figure_that_is_none_leaves_the_others_readable(text, member):
    """2^63, 2^64, 10^5000, NaN, half characters: what is no figure is left out, and what is beside it is not."""
    usage = b'"usage":{"completion_tokens":22,"%s":%s}' % (member.encode(), text.encode())
    outcome = fed([b'{"id":"gen-1-a","choices":[],' + usage + b"}"], JSON)

    assert (22, "gen-1-a") == (outcome.completion_tokens, outcome.generation_id)


def test_names_that_stand_twice_and_half_characters_change_no_price():
    body = b'{"id":"gen-1-a","id":"gen-2-b","x":"\\ud800","choices":[],"usage":{"cost":1},' + USAGE + b"}"

    assert COST == fed([body], JSON).cost


def test_characters_cut_in_two_by_chunks_are_put_together_and_broken_ones_do_no_harm():
    text = LAST.replace(b"gen-1-a", "gen-\u00e9\U0001f4a9".encode()) + b"data: \xff\xfe\xc0\x80\xed\xa0\x80\n\n"
    line = b'data: {"choices":[{"delta":{"content":"\xf0\x9f\x92\xa9\xff\xed\xa0\x80"}}]}\n\n' + text
    whole = fed([line], SSE)
    single = fed([line[at : at + 1] for at in range(len(line))], SSE)

    assert (COST, COST) == (whole.cost, single.cost)


# Compressed answers --------------------------------------------------------------------------------------------


def compressed(encoding, size):
    packer = zlib.compressobj(9, wbits=31 if encoding == "gzip" else 15)
    front = b'{"id":"gen-1-a","choices":[{"message":{"content":"'
    parts = [packer.compress(front)]
    parts += [packer.compress(b"a" * 1_000_000) for _ in range(size // 1_000_000)]
    return b"".join([*parts, packer.compress(b'"}}],' + USAGE + b"}"), packer.flush()])


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("piece_bytes", [1, 65_536, 10**9])
def test_a_bomb_of_100_mb_is_read_in_steps_and_tells_its_price(encoding, piece_bytes):
    """Also where it comes in one piece: of that piece both ends are handed on."""
    data = compressed(encoding, 100_000_000 if piece_bytes > 1 else 3_000_000)
    cut = [data[at : at + piece_bytes] for at in range(0, len(data), piece_bytes)]
    with memory_bound():
        outcome = fed(cut, JSON | {b"content-encoding": encoding.encode()})

    assert (COST, "success") == (outcome.cost, outcome.status)


def test_a_bomb_of_200_mb_in_one_piece_is_given_up():
    data = compressed("gzip", 200_000_000)
    with memory_bound():
        outcome = fed([data, b"x"], JSON | {b"content-encoding": b"gzip"})

    assert ("error", "decode") == (outcome.status, outcome.error_code)


def test_what_follows_the_end_of_a_compressed_answer_is_not_read_for_ever():
    """Found by this campaign: bytes after the end of a gzip of more than one step kept the reader busy without end."""
    data = gzip.compress(bytes(3_000_000), mtime=0)
    for size in range(0, 64, 7):
        decoder = decoder_for("gzip")
        assert 3_000_000 == sum(map(len, decoder.decode(data + b"junk" * size)))
        assert [] == decoder.decode(b"more")
    parse_encoded(b"\x00" + data + b"PK" * 50, random.Random(1))


# Requests, header fields ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("one long text", lambda: b'{"model":"a/b","messages":[{"content":"' + b"a" * 100_000_000 + b'"}]}'),
        ("half a character in it", lambda: b'{"model":"a/b","messages":[{"content":"' + b"a" * 100_000_000 + b'\\ud800"}]}'),
        ("a list of numbers", lambda: b'{"model":"a/b","input":[' + b"0," * 50_000_000 + b"0]}"),
        ("messages that are none", lambda: b'{"model":"a/b","messages":[' + b"{}," * 33_000_000 + b"{}]}"),
        ("brackets", lambda: b'{"model":"a/b","messages":' + b"[" * 100_000_000),
    ],
)  # fmt: skip
def test_a_request_of_100_mb_costs_little_beside_itself(name, body):
    text = body()
    with memory_bound():
        asked = read_request(text)

    assert "a/b" == asked.fields["model"], name


def test_the_person_is_found_in_a_request_that_is_nested_too_deep():
    """`"user"` is first met as the value of a role; a role is no person."""
    body = b'{"messages":[{"role":"user","content":' + b"[" * BRACKETS + b'}],"user":"alice","model":"a/b"'
    asked = read_request(body)

    assert ("alice", "a/b") == (asked.user, asked.fields["model"])


@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_that_is_none_in_a_request_does_no_harm(number):
    body = '{"model":"a/b","max_tokens":%s,"seed":%s,"temperature":%s,"stream":%s}' % ((number,) * 4)

    assert "a/b" == read_request(body.encode()).fields["model"]


def test_100_000_header_fields_and_one_of_a_megabyte():
    fields = [(b"x-%d" % number, b"v") for number in range(100_000)]
    fields += [(b"User-Agent", b"a" * 1_000_000), (b"X-Session-Id", b"\xff" * 1_000_000), (b"Cf-Ray", b"r" * 1_000_000)]
    with memory_bound():
        exchange, intent, private = begun(a_request(headers=fields))
        exchange.head(200, headers_of(fields))
        outcome = exchange.closed()
    becomes_entry(intent)
    becomes_entry(outcome)

    assert len(private.session) <= 1024


@pytest.mark.parametrize(
    "value", [b"9" * 5000, b"1e400", b"nan", b"-1", b"\xff", b"1_0", b"\xd9\xa1", b"", b"Wed, 21 Oct 2015 07:28:00 GMT"]
)
def test_a_wait_that_is_no_number_of_milliseconds_is_none(value):
    wait = retry_after_ms({b"retry-after": value})

    assert wait is None or 0 <= wait < 2**53


# Entries, notes, proofs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_no_entry_may_hold_is_refused(number):
    with pytest.raises(CanonicalError):
        canonical.decode(b'{"a":%s}' % number.encode())


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1,"a":1}', b'{"a":{"b":1,"b":2}}', b'{"a":"\\ud800"}', b'{"a":"\xed\xa0\x80"}', b'{"a":"\xff"}', b'{"\xc3\xa9":1}',
        b'{"a":"' + b"\x00" + b'"}', b"[" * BRACKETS, b'{"a":' * BRACKETS, b"[" * 65 + b"]" * 65, b"", b"\xef\xbb\xbf{}", b"{} {}",
    ],
)  # fmt: skip
def test_ambiguous_or_endless_text_is_no_entry(text):
    with pytest.raises(CanonicalError):
        canonical.decode(text)


def test_the_check_of_calls_survives_rows_that_somebody_made():
    """Nested without end, a time that no float holds, numbers beyond every machine word."""
    rows = [
        b'{"id":"a","kind":"call.intent","x":' + b"[" * BRACKETS + b"]" * BRACKETS + b"}",
        b'{"at_us":-1%s,"id":"b","kind":"call.intent"}' % (b"0" * 400),
        b'{"at_us":1,"id":"c","kind":"call.outcome","writer":{"segment":"s","seq":-1%s}}' % (b"0" * 400),
        b'{"count":1%s,"id":"d","kind":"log.loss","reason":"\\u0000"}' % (b"0" * 300),
        b'{"at_us":1%s,"id":"e","kind":"call.intent"}' % (b"0" * 5000),
    ]
    check = CallCheck()
    check.add(list(enumerate(rows)))
    found = check.finish(now_us=10**16)

    assert "open_intent" in {one.kind for one in found}
    assert [*check.compare_positions({})]


@pytest.mark.parametrize(
    "path",
    [
        "tile/../../etc/passwd", "tile/0/../000", "tile/0/x001/../067", "tile/0/000.p/../1", "tile/-1/000", "tile/0/-01", "tile/64/000",
        "tile/0/000.p/256", "tile/0/000.p/0", "tile/0/000.p/-1", "tile/00/000", "tile/0/x000/000", "tile/0/\uff10\uff10\uff10", "/tile/0/000",
        "tile/0/000\n", "tile/0/000\x00", "tile\\0\\000", "tile/0/" + "x999/" * 10 + "999", "tile/0/" + "x001/" * 1_000_000 + "000",
        "tile/entries/%2e%2e", "\ud800",
    ],
)  # fmt: skip
def test_a_path_that_leads_elsewhere_is_no_tile(path):
    with cpu_bound(), pytest.raises(TileError):
        tiles.decode_path(path)


@pytest.mark.parametrize("count", [-1, 2**31, 2**63, 2**64])
def test_a_bundle_of_more_entries_than_bytes_is_refused_at_once(count):
    with cpu_bound(), pytest.raises(TileError):
        tiles.decode_bundle(b"\x00\x00" * 1000 + b"\xff\xff", count=count)


def test_a_note_of_a_megabyte_of_signature_lines_is_refused():
    line = b"\xe2\x80\x94 a QUFBQUE=\n"
    with cpu_bound(), memory_bound(), pytest.raises(NoteError):
        notes.parse_note(b"text\n\n" + line * (999_000 // len(line)))


def test_a_note_with_100_lines_of_known_keys_is_checked_once_a_key():
    note = note_examples()[0]
    text, _, lines = note.partition(b"\n\n")
    signature = lines.split(b"\n")[1] + b"\n"
    with cpu_bound():
        assert policy().open_checkpoint(text + b"\n\n" + lines + signature * 90)


@pytest.mark.parametrize(
    "change",
    [
        ("=", ""),
        ("=", "=="),
        ("4\n", "4 \n"),
        ("4\n", "+4\n"),
        ("4\n", "04\n"),
        ("\u2014", "-"),
        ("local", "lo\u0441al"),
    ],
)
def test_another_spelling_of_a_signed_note_is_refused(change):
    """Base64 without its end, numbers with a sign, a dash that is none, a letter that only looks like one."""
    note = note_examples()[0].decode().replace(*change, 1).encode()

    with pytest.raises((NoteError, CheckpointError, UnknownOrigin)):
        policy().open_checkpoint(note)


def test_half_characters_in_names_of_keys_are_refused():
    for text in ("a\ud800+00000000+AQ==", "\udcff+00000000+" + "A" * 44):
        with pytest.raises(NoteError):
            notes.VerifierKey.decode(text)
    with pytest.raises(NoteError):
        notes.format_note("a\ud800\n", [notes.NoteSignature(key_name="a", key_id=b"1234", signature=b"5")])


def test_a_proof_of_a_megabyte_of_hashes_is_refused_at_once():
    data = b"c2sp.org/tlog-proof@v1\nindex 0\n" + b"AAAA\n" * 190_000 + b"\n" + note_examples()[0]
    with cpu_bound(), memory_bound(), pytest.raises(ProofFileError):
        proofs.decode_proof(data)


@pytest.mark.parametrize(
    "text",
    [
        b"quorum none\n" * 80_000, b"group g any " + b"w " * 400_000 + b"\n", b"log " * 200_000 + b"\n", b"size a 1 AA\n" * 80_000,
        b"witness w " + b"a+" * 400_000 + b"\n", b"# \xff\n", b"\xef\xbb\xbf\n", b"\x00\n", b"[" * BRACKETS, b"a" * 2_000_000 + b"\n",
    ],
)  # fmt: skip
def test_a_policy_of_a_megabyte_of_nonsense_is_refused(text):
    with cpu_bound(), memory_bound(), pytest.raises(PolicyError):
        checkpoints.decode_policy(policy_examples()[0].replace(b"quorum none\n", b"") + text)


# Files ---------------------------------------------------------------------------------------------------------


def test_a_spool_file_of_markers_alone_is_read_in_a_moment():
    """Each begins a frame of 250 KB whose sum is wrong; without patience running out every one of them would be summed."""
    data = memoryview(MARKER * (512 * 1024 // 8))
    with cpu_bound():
        items = sum(1 for _ in scan(data, MARKER, 0))

    assert items > 60_000


def test_frames_behind_a_field_of_markers_are_still_found():
    sealed = b"s" * 100
    frame = frame_head(MARKER, 5, sealed) + sealed
    found = [*scan(memoryview(MARKER * 40 + frame + MARKER + frame * 2), MARKER, 0)]

    assert 3 == sum(isinstance(item, Frame) for item in found)
    assert any(isinstance(item, Damage) for item in found)


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x80000000, 256 * 1024 + 1, 2**31 - 1])
def test_a_frame_of_impossible_length_is_damage(length):
    data = MARKER + length.to_bytes(4) + bytes(12) + b"x" * 100 + frame_head(MARKER, 1, b"ok") + b"ok"
    found = [*scan(memoryview(data), MARKER, 0)]

    assert [Damage, Frame] == [type(item) for item in found]


@pytest.mark.parametrize(
    "text",
    [
        b"a=" + b"[" * BRACKETS, b"a = {" * 3000, b"a=" + b"1" * 5000, b"a." * 30_000 + b"b=1", b"\xff", b"a=1\n" * 100_000, b"[" * BRACKETS,
        b"[enrich]\nhorizon_hours = inf", b"[enrich]\nhorizon_hours = nan", b"[enrich]\nmax_per_second = 1e-300",
        b"[capture]\nspool_max_bytes = 9223372036854775808", b"[capture]\nhosts = [1]", b"capture = 1979-05-27", b'"capture".mode = "\\u0000"',
    ],
)  # fmt: skip
def test_settings_nobody_can_mean_are_refused(tmp_path, text):
    (tmp_path / "config.toml").write_bytes(text)
    with cpu_bound(), memory_bound(), pytest.raises(ConfigError):
        load_config(tmp_path / "config.toml", {})


SEED_TABLE = (
    "CREATE TABLE audit_log (id INTEGER PRIMARY KEY, timestamp TEXT, generation_id TEXT, model_requested TEXT, model_used TEXT,"
    " prompt_tokens, completion_tokens, total_cost, latency_ms, status TEXT, user_id TEXT, prompt_hash TEXT, error_code TEXT"
)
COLUMNS_OF_ONE = (
    "1 AS id, '2026-11-23' AS timestamp, 'g' AS generation_id, 'a/b' AS model_requested, 'a/b' AS model_used, 1 AS prompt_tokens,"
    " 1 AS completion_tokens, 0 AS total_cost, 1 AS latency_ms, 'success' AS status, 'u' AS user_id, 'p' AS prompt_hash, NULL AS error_code"
)


def seed_file(path, *statements):
    connection = apsw.Connection(str(path))
    for statement in statements:
        connection.execute(statement)
    connection.close()
    return path


@pytest.mark.parametrize(
    "statements",
    [
        (f"CREATE VIEW audit_log AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT {COLUMNS_OF_ONE} FROM n",),
        ("CREATE TABLE other (x)",),
        ("CREATE TABLE audit_log (x)", "INSERT INTO audit_log VALUES (1)"),
        (SEED_TABLE.replace("user_id TEXT", "user_id TEXT AS (hex(zeroblob(40000000)))") + ")", "INSERT INTO audit_log (id) VALUES (1)"),
    ],
)  # fmt: skip
def test_a_database_made_to_have_no_end_is_not_imported(tmp_path, statements):
    """A view without end, no such table, other columns, a column computed to 80 MB."""
    path = seed_file(tmp_path / "seed.db", *statements)
    apsw.memory_high_water(True)
    with cpu_bound(), pytest.raises(UnreadableFile), open_table(path) as table:
        list(pieces(table))

    assert apsw.memory_high_water() < 64 * 2**20


def test_a_row_that_is_no_text_is_left_out_and_the_others_are_there(tmp_path):
    insert = "INSERT INTO audit_log (id, user_id) VALUES"
    path = seed_file(tmp_path / "seed.db", SEED_TABLE + ")", f"{insert} (1, 'a'), (2, CAST(x'ff00' AS TEXT)), (3, 'c')")
    with open_table(path) as table:
        (piece,) = pieces(table)

    assert ["a", None, "c"] == [row and row["user_id"] for row in piece]


# Fuzz targets without their driver -----------------------------------------------------------------------------


@pytest.mark.parametrize("target", [fuzz_exchange, fuzz_note], ids=["exchange", "note"])
def test_the_fuzz_targets_hold_over_their_corpus_and_random_bytes(target):
    """What `python -m tests.campaign.fuzz_note` hands to atheris, without atheris."""
    seed = new_seed()
    rng = random.Random(seed)
    corpus = [*target.corpus()]
    for data in corpus:
        target.one_input(data)
    for _ in range(2000):
        target.one_input(rng.randbytes(int(rng.random() * 300)))
        data = bytearray(corpus[int(rng.random() * len(corpus))])
        for _ in range(3):
            data[int(rng.random() * len(data))] = int(rng.random() * 256)
        target.one_input(bytes(data))


def test_a_random_answer_gives_one_outcome_whatever_its_pieces_are():
    rng = random.Random(7)
    for _ in range(300):
        run_exchange(rng.randbytes(500), rng, "chat", SSE)
