"""Frames and pages that somebody made: the drain goes on, and what could not be read is a record."""

import os

import pytest
from tests.journal.homes import new_home

from openrouter_audit.audit_log import AuditLog
from openrouter_audit.journal.keys import load_sealing_public_key
from openrouter_audit.journal.sealing import new_segment_cipher
from openrouter_audit.journal.segments import SegmentHeader, frame_head
from openrouter_audit.journal.sqlite import SqliteJournal
from openrouter_audit.journal.writer_state import WriterState


def finished_segment(home, plain):
    """A segment with one frame, sealed as every process of this home may seal: the public key is all it takes."""
    segment = os.urandom(16)
    sealed_key, cipher = new_segment_cipher(load_sealing_public_key(home.keys_dir), segment)
    header = SegmentHeader(
        segment=segment, process=os.urandom(16), ordinal=0, created_us=1, marker=os.urandom(8), sealed_key=sealed_key
    )
    sealed = cipher.seal(0, plain)
    path = home.spool_dir / f"{segment.hex()}.seg"
    path.write_bytes(header.encode() + frame_head(header.marker, 0, sealed) + sealed)
    return segment.hex()


def texts(home):
    with AuditLog.open(home.path, enrich=False) as audit:
        audit.flush(timeout=30)
    with SqliteJournal.open(home.journal_path, read_only=True) as journal:
        return [text for _, text in journal.entries()]


@pytest.mark.parametrize(
    "plain", [b"\x93\x81\xa1\xff\x01\xc0\xc0", b"\x93\x81\xa4kind" + b"\x91" * 100_000 + b"\xc0\xc0\xc0", b"\xc1", b""]
)
def test_a_genuine_frame_of_nonsense_becomes_unreadable_and_stops_nobody(tmp_path, plain):
    """Text that is not UTF-8 and endless nesting are Python's own errors, not the decoder's: they stopped the log for good."""
    home = new_home(tmp_path)
    finished_segment(home, plain)

    assert any('"kind":"log.unreadable"' in text and '"reason":"facts"' in text for text in texts(home))


def test_a_page_that_counts_a_million_million_records_costs_no_memory(tmp_path):
    """They were listed one by one. What the page says is still said."""
    home = new_home(tmp_path)
    segment = finished_segment(home, b"\x93\x80\xc0\xc0")
    WriterState(home.state_dir / segment).acknowledge(2**40)

    assert any(f'"count":{2**40}' in text and '"missing_tail"' in text for text in texts(home))
