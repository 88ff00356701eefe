import base64
from hashlib import sha256

import pytest
from tests.core import vectors

from openrouter_audit.core import notes
from openrouter_audit.core.notes import NoteSignature, SignerKey, VerifierKey
from openrouter_audit.errors import CheckpointError, NoteError, SignatureInvalid, SignatureMissing

LOG_KEY = VerifierKey.decode(vectors.V5_LOG_VKEY)
SIGNER = SignerKey.decode(vectors.V5_LOG_SKEY)
ML_DSA_SIGNER = SignerKey(name=vectors.ORIGIN, key_type=notes.ML_DSA_44_COSIGNATURE, seed=vectors.LOG_SEED)
WITNESS = SignerKey(name="witness.example.com/w1", key_type=notes.ED25519_COSIGNATURE, seed=vectors.WITNESS_SEED)
TEXT = vectors.V5_CHECKPOINTS[300].split("\n\n")[0] + "\n"
NOTE = vectors.V5_CHECKPOINTS[7].encode()


def test_keys_are_the_published_ones():
    assert "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8" == LOG_KEY.public_key.hex()
    assert "cf18fe2a" == LOG_KEY.key_id.hex()
    assert vectors.V5_LOG_VKEY == LOG_KEY.encode() == SIGNER.verifier_key.encode()
    assert vectors.V5_LOG_SKEY == SIGNER.encode()
    assert SIGNER.encode() == SignerKey(name=vectors.ORIGIN, key_type=notes.ED25519, seed=vectors.LOG_SEED).encode()


@pytest.mark.parametrize("size", vectors.V5_CHECKPOINTS)
def test_published_checkpoints_open_and_are_signed_again_to_the_same_bytes(size):
    note = vectors.V5_CHECKPOINTS[size].encode()
    opened = notes.open_note(note, [LOG_KEY])
    assert [LOG_KEY] == [verified.key for verified in opened.verified]
    assert note == notes.format_note(opened.text, [SIGNER.sign(opened.text)])


def test_ed25519_cosignature_is_the_published_one():
    """
    The witness' key text holds a plus within its base64.
    """
    assert vectors.V7_WITNESS_VKEY == WITNESS.verifier_key.encode()
    assert WITNESS.verifier_key == VerifierKey.decode(vectors.V7_WITNESS_VKEY)
    assert vectors.V7_LINE == notes.encode_signature_line(WITNESS.sign(TEXT, time_s=vectors.V7_TIME_S))
    line = notes.decode_signature_line(vectors.V7_LINE)
    assert vectors.V7_TIME_S == WITNESS.verifier_key.verify(TEXT, line.signature)


def test_ml_dsa_cosignature_signs_the_published_message():
    key = ML_DSA_SIGNER.verifier_key
    assert vectors.V8_PUBLIC_KEY_SHA256 == sha256(key.public_key).hexdigest()
    assert vectors.V8_KEY_ID == key.key_id.hex()
    head = notes.parse_tree_head(TEXT)
    message = notes.subtree_message(
        cosigner=vectors.ORIGIN,
        time_s=vectors.V7_TIME_S,
        origin=head.origin,
        start=0,
        end=head.tree_size,
        root_hash=head.root_hash,
    )
    assert vectors.V8_MESSAGE == message.hex()
    assert vectors.V8_MESSAGE_SHA256 == sha256(message).hexdigest()
    signature = ML_DSA_SIGNER.sign(TEXT, time_s=vectors.V7_TIME_S).signature
    from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey

    MLDSA44PublicKey.from_public_bytes(key.public_key).verify(signature[8:], message)
    assert vectors.V7_TIME_S == key.verify(TEXT, signature)


@pytest.mark.parametrize("signer", [WITNESS, ML_DSA_SIGNER])
def test_cosignature_with_another_time_text_or_length_is_refused(signer):
    signature = signer.sign(TEXT, time_s=vectors.V7_TIME_S).signature
    key = signer.verifier_key
    for bad in (
        (vectors.V7_TIME_S + 1).to_bytes(8, "big") + signature[8:],
        bytes(8) + signature[8:],
        signature[:-1],
        signature + b"\0",
        signature[:7],
        b"",
        signature[:-1] + bytes([signature[-1] ^ 1]),
    ):
        with pytest.raises(SignatureInvalid):
            key.verify(TEXT, bad)
    with pytest.raises(SignatureInvalid):
        key.verify(TEXT.replace("300", "301"), signature)
    with pytest.raises(CheckpointError):
        key.verify("not a checkpoint\n", signature)


@pytest.mark.parametrize("signer", [WITNESS, ML_DSA_SIGNER])
def test_time_0_is_refused_even_when_it_was_signed(signer):
    """
    A cosigner may state a time of 0 about part of a tree; about a checkpoint it says nothing.
    """
    head = notes.parse_tree_head(TEXT)
    message = (
        notes.cosignature_text(TEXT, time_s=0)
        if signer is WITNESS
        else notes.subtree_message(
            cosigner=signer.name,
            time_s=0,
            origin=head.origin,
            start=0,
            end=head.tree_size,
            root_hash=head.root_hash,
        )
    )
    blob = bytes(8) + signer._private_key.sign(message)
    with pytest.raises(SignatureInvalid):
        signer.verifier_key.verify(TEXT, blob)
    for time_s in (None, 0, -1, 2**63):
        with pytest.raises(NoteError):
            signer.sign(TEXT, time_s=time_s)


def test_no_change_and_no_truncation_of_a_checkpoint_is_accepted():
    assert 191 == len(NOTE)
    changes = list(vectors.all_changes(NOTE))
    assert 573 + 191 == len(changes)
    for changed in changes:
        with pytest.raises(NoteError):
            notes.open_note(changed, [LOG_KEY])


def test_spare_bits_of_base64_are_not_ignored():
    """
    `=` after two or three characters leaves bits that most decoders drop; 4-byte id and 64-byte signature leave some.
    """
    assert NOTE.endswith(b"K3wk=\n")
    changed = NOTE[:-3] + b"l=\n"
    assert base64.b64decode(NOTE.split()[-1]) == base64.b64decode(changed.split()[-1], validate=True)
    with pytest.raises(NoteError, match="spelling"):
        notes.open_note(changed, [LOG_KEY])
    for text in ("QQ", "QQ=", "QQ==\n", " QQ==", "QR==", "Q===", "====", "QQ==QQ==", "Q-_=", "ÄÄ==", "Q Q==", "A"):
        with pytest.raises(NoteError):
            notes.decode_base64(text)
    assert (b"A", b"") == (notes.decode_base64("QQ=="), notes.decode_base64(""))


HEAD, TAIL = NOTE.split(b"\n\n")
MALFORMED = {
    "text without its final newline": HEAD + b"\n" + TAIL,
    "two spaces after the dash": NOTE.replace("— ".encode(), "—  ".encode()),
    "two spaces before base64": NOTE.replace(b"log1 z", b"log1  z"),
    "hyphen": NOTE.replace("—".encode(), b"-"),
    "carriage returns": NOTE.replace(b"\n", b"\r\n"),
    "one carriage return": NOTE.replace(b"7\n", b"7\r\n"),
    "NUL": NOTE.replace(b"7\n", b"7\0\n"),
    "tab": NOTE.replace(b"7\n", b"7\t\n"),
    "byte order mark": b"\xef\xbb\xbf" + NOTE,
    "invalid UTF-8": NOTE.replace(b"7\n", b"7\xff\n"),
    "overlong UTF-8": NOTE.replace(b"7\n", b"\xc0\xb7\n"),
    "signature of 4 bytes": HEAD + "\n\n— audit.example.com/log1 zxj+Kg==\n".encode(),
    "signature without bytes": HEAD + "\n\n— audit.example.com/log1 \n".encode(),
    "no signature": HEAD + b"\n\n",
    "no newline at the end": NOTE[:-1],
    "empty line at the end": NOTE + b"\n",
    "empty": b"",
    "only newlines": b"\n\n\n",
    "101 lines": HEAD + b"\n\n" + TAIL * 101,
    "name with plus": NOTE.replace("— audit".encode(), "— au+dit".encode()),
    "name with a no-break space": NOTE.replace("— audit".encode(), "— au\u00a0dit".encode()),
    "too long": HEAD + b"\n" + b"x" * 1_000_000 + b"\n\n" + TAIL,
}


@pytest.mark.parametrize("fault", MALFORMED)
def test_malformed_note_is_refused(fault):
    with pytest.raises(NoteError):
        notes.open_note(MALFORMED[fault], [LOG_KEY])


def test_a_hundred_lines_are_read_and_repeats_of_a_key_ignored():
    opened = notes.open_note(HEAD + b"\n\n" + TAIL * 100, [LOG_KEY])
    assert 1 == len(opened.verified)


def test_unknown_keys_say_nothing_and_a_known_key_that_fails_rejects_all():
    text = HEAD.decode() + "\n"
    good = SIGNER.sign(text)
    other = SignerKey(name="other", key_type=notes.ED25519, seed=bytes(32))
    failing = NoteSignature(key_name="other", key_id=other.verifier_key.key_id, signature=bytes(64))
    note = notes.format_note(text, [failing, good])
    assert 1 == notes.open_note(note, [LOG_KEY]).unknown_signatures
    with pytest.raises(SignatureInvalid) as caught:
        notes.open_note(note, [LOG_KEY, other.verifier_key])
    assert "other" == caught.value.key_name
    with pytest.raises(SignatureMissing):
        notes.open_note(notes.format_note(text, [failing]), [LOG_KEY])
    with pytest.raises(SignatureMissing):
        notes.open_note(note, [])


def test_split_is_at_the_last_empty_line():
    text = "one\n\ntwo\n"
    assert text == notes.open_note(notes.format_note(text, [SIGNER.sign(text)]), [LOG_KEY]).text


@pytest.mark.parametrize("text", ["no newline", "", "a\rb\n", "\ufeffa\n"])
def test_text_that_no_note_can_hold_is_not_formatted(text):
    with pytest.raises(NoteError):
        notes.format_note(text, [SIGNER.sign(text)])


def test_note_without_signatures_is_not_formatted():
    for signatures in ([], [SIGNER.sign("a\n")] * 101):
        with pytest.raises(NoteError):
            notes.format_note("a\n", signatures)


def test_no_change_and_no_truncation_of_a_key_text_is_accepted():
    for text, decode in ((vectors.V5_LOG_VKEY, VerifierKey.decode), (vectors.V5_LOG_SKEY, SignerKey.decode)):
        for changed in vectors.all_changes(text.encode()):
            with pytest.raises(NoteError):
                decode(changed.decode("latin-1"))


def test_malformed_key_texts_are_refused():
    name, key_id, material = vectors.V5_LOG_VKEY.split("+", 2)
    for text in (
        f"{name}+{key_id.upper()}+{material}",
        f"{name}+{key_id}+",
        f"{name}+{key_id}+{base64.b64encode(bytes(33)).decode()}",
        f"{name}+{key_id}+{material}\n",
        f"+{key_id}+{material}",
        name,
        "",
    ):
        with pytest.raises(NoteError):
            VerifierKey.decode(text)
    with pytest.raises(NoteError):
        VerifierKey(name="a", key_type=0x02, public_key=bytes(32))
    with pytest.raises(NoteError):
        SignerKey(name="a", key_type=0x02, seed=bytes(32))
    with pytest.raises(NoteError):
        SignerKey(name="a", key_type=notes.ED25519, seed=bytes(31))


def test_names_too_long_for_the_ml_dsa_message_are_refused():
    with pytest.raises(NoteError):
        notes.subtree_message(cosigner="x" * 256, time_s=1, origin="a", start=0, end=1, root_hash=bytes(32))


def test_signer_shows_no_secret_when_printed():
    for shown in (repr(SIGNER), str(SIGNER), f"{SIGNER}"):
        assert "SignerKey(audit.example.com/log1+cf18fe2a)" == shown


@pytest.mark.parametrize(
    "size",
    ["", "+7", "-7", "07", "00", "7e0", "7.0", " 7", "7 ", "\u0667", "0x7", "1_0", "9223372036854775808", "9" * 5000],
)
def test_size_in_another_spelling_is_refused(size):
    with pytest.raises(CheckpointError):
        notes.parse_size(size)


def test_sizes_to_the_bound_are_read():
    assert (0, 2**63 - 1) == (notes.parse_size("0"), notes.parse_size(str(2**63 - 1)))


def test_half_characters_are_refused_where_text_becomes_bytes():
    """A lone surrogate has no bytes: a name or text with one is no name or text, and no error of the encoder's."""
    with pytest.raises(NoteError):
        VerifierKey.decode("a\ud800" + vectors.V5_LOG_VKEY)
    with pytest.raises(NoteError):
        notes.check_key_name("log\udcff")
    with pytest.raises(NoteError):
        notes.format_note("a\ud800\n", [SIGNER.sign("x\n")])
    with pytest.raises(CheckpointError):
        notes.parse_tree_head(f"log\ud800\n7\n{notes.encode_base64(bytes(32))}\n")


def test_keys_are_read_back_as_they_were_written():
    """Of each type, and with what stands for them in notes; a name may hold anything but spaces and a plus."""
    for key_type in (notes.ED25519, notes.ED25519_COSIGNATURE, notes.ML_DSA_44_COSIGNATURE):
        signer = SignerKey(name="größe.example/w-1", key_type=key_type, seed=bytes(range(32)))
        again = SignerKey.decode(signer.encode())
        assert signer.encode().startswith("PRIVATE+KEY+größe.example/w-1+")
        assert (signer.name, key_type, signer.verifier_key) == (again.name, again.key_type, again.verifier_key)
        assert signer.verifier_key == VerifierKey.decode(signer.verifier_key.encode())
        line = again.sign(TEXT, time_s=1)
        assert (None if key_type == notes.ED25519 else 1) == signer.verifier_key.verify(TEXT, line.signature)


def test_a_witness_of_another_name_signs_its_own_name_and_that_of_the_log():
    """Layout as published: the names stand where they belong, each behind its length."""
    message = notes.subtree_message(
        cosigner="witness", time_s=2**33, origin="log", start=0x0102030405060708, end=2**62, root_hash=bytes(32)
    )

    assert (
        b"subtree/v1\n\0" + b"\x07witness" + bytes.fromhex("0000000200000000") + b"\x03log"
        + bytes.fromhex("0102030405060708") + bytes.fromhex("4000000000000000") + bytes(32)
    ) == message  # fmt: skip
    longest = "n" * 255
    assert longest.encode() in notes.subtree_message(
        cosigner=longest, time_s=1, origin=longest, start=0, end=1, root_hash=bytes(32)
    )


def signature(number):
    return NoteSignature(key_name=f"name-{number}", key_id=bytes(4), signature=b"s")


def test_a_note_of_exactly_the_bounds_is_read_and_written():
    lines = [signature(number) for number in range(notes.MAX_SIGNATURES)]
    assert tuple(lines) == notes.parse_note(notes.format_note("text\n", lines)).signatures

    shortest = notes.format_note("text\n", [signature(0)])
    padded = notes.format_note("t" * (notes.MAX_NOTE_BYTES - len(shortest) + 4) + "\n", [signature(0)])
    assert notes.MAX_NOTE_BYTES == len(padded)
    assert 1 == len(notes.parse_note(padded).signatures)


def test_every_line_of_an_unknown_key_is_counted():
    lines = [*(signature(number) for number in range(5)), SIGNER.sign(TEXT)]

    assert 5 == notes.open_note(notes.format_note(TEXT, lines), [LOG_KEY]).unknown_signatures


def test_a_cosignature_may_be_of_the_first_second_there_is():
    assert 1 == WITNESS.verifier_key.verify(TEXT, WITNESS.sign(TEXT, time_s=1).signature)
    with pytest.raises(NoteError, match="needs its time"):
        WITNESS.sign(TEXT, time_s=1 << 63)


def test_a_signature_of_an_unknown_kind_may_be_as_short_as_one_byte():
    shortest = notes.encode_signature_line(signature(1))

    assert b"s" == notes.decode_signature_line(shortest).signature
    with pytest.raises(NoteError, match="name-1: a signature of 4 bytes has no room for a key id"):
        notes.decode_signature_line("\u2014 name-1 AAAAAA==")


@pytest.mark.parametrize("line", ["name AAAAAAA=", "-- name AAAAAAA=", "\u2014 nameAAAAAAA="])
def test_a_signature_line_without_its_dash_or_its_space_is_none(line):
    with pytest.raises(NoteError, match="a signature line is a dash"):
        notes.decode_signature_line(line)


def test_a_signature_that_fails_says_whose_it_is():
    """Also where its length alone is wrong."""
    for bad in (b"short", SIGNER.sign("other\n").signature):
        with pytest.raises(SignatureInvalid) as caught:
            LOG_KEY.verify(TEXT, bad)
        assert (LOG_KEY.name, LOG_KEY.key_id) == (caught.value.key_name, caught.value.key_id)


@pytest.mark.parametrize(
    ("said", "refused"),
    [
        ("log: no key of type 0x01 has 31 bytes", lambda: VerifierKey(name="log", key_type=1, public_key=bytes(31))),
        ("n: the key's id is 6986284b, its text says 00000000", lambda: VerifierKey.decode(f"n+00000000+{'AQ' + 'A' * 42}")),
        ("log: a seed has 32 bytes, not 31", lambda: SignerKey(name="log", key_type=1, seed=bytes(31))),
        ("log: no key type 0x09", lambda: SignerKey(name="log", key_type=9, seed=bytes(32))),
        ("not the text of a signer key", lambda: SignerKey.decode("log+00000000+AQ==")),
        ("n: the signer key's id is not that of its seed", lambda: SignerKey.decode(f"PRIVATE+KEY+n+00000000+{'AQ' + 'A' * 42}")),
        (f"{WITNESS.name}: a cosignature needs its time", lambda: WITNESS.sign(TEXT)),
        ("a note of 1000001 bytes", lambda: notes.parse_note(bytes(1_000_001))),
        ("a note is UTF-8", lambda: notes.parse_note(b"\xff")),
        ("a note is text, an empty line and signature lines", lambda: notes.parse_note(b"text\n")),
        ("101 signature lines; 100 are enough", lambda: notes.parse_note(b"text\n\n" + b"line\n" * 101)),
        ("the text of a note ends in a newline", lambda: notes.format_note("text", [signature(1)])),
        ("a note has 1..100 signatures, not 0", lambda: notes.format_note("text\n", [])),
        ("no signature by a known key", lambda: notes.open_note(NOTE, [])),
        ("a key name is not empty and holds neither space nor plus", lambda: notes.check_key_name("a b")),
        ("a key name is not empty and holds neither space nor plus", lambda: notes.check_key_name("a+b")),
        ("a key name is not empty and holds neither space nor plus", lambda: notes.check_key_name("")),
        ("a checkpoint has three lines: origin, tree size, root hash", lambda: notes.parse_tree_head("log\n1\n")),
        ("checkpoint: not base64", lambda: notes.parse_tree_head("log\n1\n?\n")),
        ("a root hash has 32 bytes, not 1", lambda: notes.parse_tree_head("log\n1\nAA==\n")),
        ("a tree size is a plain decimal number below 2^63", lambda: notes.parse_size("01")),
        (
            "names in an ML-DSA-44 cosignature have at most 255 bytes",
            lambda: notes.subtree_message(cosigner="n" * 256, time_s=1, origin="o", start=0, end=1, root_hash=bytes(32)),
        ),
        ("not base64", lambda: notes.decode_base64("?")),
        ("base64 in another spelling than its own", lambda: notes.decode_base64("AB==")),
        ("a key text is a name, eight hex digits and base64, joined by plus", lambda: VerifierKey.decode("log")),
        ("a key name is not empty and holds neither space nor plus", lambda: VerifierKey.decode("a b+00000000+AQ==")),
        ("a key text without a key", lambda: VerifierKey.decode("log+00000000+")),
        (
            "a note holds no control characters but newlines, no byte order mark and no half characters",
            lambda: notes.format_note("\ufefftext\n", [signature(1)]),
        ),
    ],
)  # fmt: skip
def test_what_is_refused_is_told_in_words(said, refused):
    with pytest.raises((NoteError, CheckpointError)) as caught:
        refused()

    assert said == str(caught.value)
