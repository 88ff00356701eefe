import base64
import dataclasses

import pytest
from tests.core import vectors

from openrouter_audit.core import checkpoints, notes
from openrouter_audit.core.checkpoints import Checkpoint, decode_policy, encode_policy, open_checkpoint, sign_checkpoint
from openrouter_audit.core.notes import SignerKey
from openrouter_audit.errors import (
    CheckpointError,
    NoteError,
    PolicyError,
    QuorumMissing,
    RolledBack,
    RootMismatch,
    SignatureInvalid,
    SignatureMissing,
    UnknownOrigin,
    VerificationError,
)

TIME_S = vectors.V7_TIME_S
ED25519 = SignerKey(name=vectors.ORIGIN, key_type=notes.ED25519, seed=vectors.LOG_SEED)
ML_DSA = SignerKey(name=vectors.ORIGIN, key_type=notes.ML_DSA_44_COSIGNATURE, seed=vectors.LOG_SEED)
LOG_KEYS = (ED25519.verifier_key, ML_DSA.verifier_key)
ROOT = bytes.fromhex(vectors.V1_ROOTS[7])
CHECKPOINT = Checkpoint(origin=vectors.ORIGIN, tree_size=7, root_hash=ROOT)
NOTE = sign_checkpoint(CHECKPOINT, [ED25519, ML_DSA], time_s=TIME_S)
WITNESSES = [
    SignerKey(name=f"witness.example.com/{n}", key_type=notes.ED25519_COSIGNATURE, seed=bytes([n]) * 32)
    for n in range(3)
]
LOGS = f"log {ED25519.verifier_key.encode()}\nlog {ML_DSA.verifier_key.encode()}\n"
WITNESS_LINES = "".join(f"witness w{n} {w.verifier_key.encode()}\n" for n, w in enumerate(WITNESSES))
B64_ROOT = base64.b64encode(ROOT).decode()


def policy(lines="quorum none\n"):
    return decode_policy((LOGS + lines).encode())


def cosigned(*who):
    return checkpoints.add_signatures(
        NOTE, [WITNESSES[n].sign(notes.parse_note(NOTE).text, time_s=TIME_S) for n in who]
    )


@pytest.mark.parametrize("size", vectors.V5_CHECKPOINTS)
def test_published_checkpoints_are_made_and_read(size):
    note = vectors.V5_CHECKPOINTS[size].encode()
    opened = open_checkpoint(note, log_keys=LOG_KEYS[:1])
    assert (vectors.ORIGIN, size) == (opened.checkpoint.origin, opened.checkpoint.tree_size)
    if size < 9:
        assert vectors.V1_ROOTS[size] == opened.checkpoint.root_hash.hex()
    assert note == sign_checkpoint(opened.checkpoint, [ED25519], time_s=TIME_S)
    assert note == opened.note
    assert opened.time_s is None


def test_checkpoint_with_both_signatures_opens_and_tells_its_time():
    opened = policy().open_checkpoint(NOTE)
    assert CHECKPOINT == opened.checkpoint
    assert set(LOG_KEYS) == {verified.key for verified in opened.verified}
    assert TIME_S == opened.time_s


@pytest.mark.parametrize("signers", [[ED25519], [ML_DSA]])
def test_one_of_two_signatures_is_not_enough(signers):
    note = sign_checkpoint(CHECKPOINT, signers, time_s=TIME_S)
    with pytest.raises(SignatureMissing) as caught:
        policy().open_checkpoint(note)
    assert caught.value.key_id in {key.key_id for key in LOG_KEYS} - {signers[0].verifier_key.key_id}


def test_no_change_and_no_truncation_of_a_checkpoint_with_both_signatures_is_accepted():
    """
    Every byte of text and names, and every 40th of the long ML-DSA line.
    """
    pinned = policy()
    short = len(vectors.V5_CHECKPOINTS[7].encode()) + 60
    for number, changed in enumerate(vectors.all_changes(NOTE)):
        if number < 4 * short or number % 40 == 0:
            with pytest.raises(VerificationError):
                pinned.open_checkpoint(changed)


def test_signature_of_another_checkpoint_does_not_carry_over():
    """
    The text is exchanged under signatures that were made, with the same keys, for a smaller tree.
    """
    text = checkpoints.encode_checkpoint(Checkpoint(origin=vectors.ORIGIN, tree_size=8, root_hash=ROOT))
    forged = notes.format_note(text, notes.parse_note(NOTE).signatures)
    with pytest.raises(SignatureInvalid):
        policy().open_checkpoint(forged)


def test_checkpoint_without_a_pinned_key_is_not_fine():
    stranger = SignerKey(name=vectors.ORIGIN, key_type=notes.ED25519, seed=bytes(32))
    note = sign_checkpoint(CHECKPOINT, [stranger], time_s=TIME_S)
    with pytest.raises(SignatureMissing):
        policy().open_checkpoint(note)
    with pytest.raises(NoteError):
        open_checkpoint(note, log_keys=[])


def test_log_that_is_not_pinned_is_named():
    signer = SignerKey(name="other.example.com", key_type=notes.ED25519, seed=bytes(32))
    note = sign_checkpoint(Checkpoint(origin="other.example.com", tree_size=7, root_hash=ROOT), [signer], time_s=1)
    with pytest.raises(UnknownOrigin) as caught:
        policy().open_checkpoint(note)
    assert "other.example.com" == caught.value.origin


def test_keys_of_one_log_do_not_vouch_for_another():
    text = checkpoints.encode_checkpoint(Checkpoint(origin="other.example.com", tree_size=7, root_hash=ROOT))
    note = notes.format_note(text, [ED25519.sign(text)])
    with pytest.raises(CheckpointError):
        open_checkpoint(note, log_keys=LOG_KEYS[:1])
    with pytest.raises(CheckpointError):
        sign_checkpoint(Checkpoint(origin="other.example.com", tree_size=7, root_hash=ROOT), [ED25519], time_s=1)


def test_extension_lines_of_foreign_logs_are_kept():
    checkpoint = Checkpoint(origin="a", tree_size=0, root_hash=bytes(32), extension_lines=("one", "two words"))
    assert checkpoint == checkpoints.decode_checkpoint(checkpoints.encode_checkpoint(checkpoint))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a\n7\n",
        f"a\n7\n{B64_ROOT}",
        f"\n7\n{B64_ROOT}\n",
        f"a b\n7\n{B64_ROOT}\n",
        f"a+b\n7\n{B64_ROOT}\n",
        f"a\n+7\n{B64_ROOT}\n",
        f"a\n07\n{B64_ROOT}\n",
        f"a\n7e0\n{B64_ROOT}\n",
        f"a\n9223372036854775808\n{B64_ROOT}\n",
        f"a\n7\n{B64_ROOT[:-4]}\n",
        f"a\n7\n{B64_ROOT} \n",
        "a\n7\n" + base64.b64encode(bytes(31)).decode() + "\n",
        "a\n7\n" + base64.b64encode(bytes(33)).decode() + "\n",
        f"a\n7\n{B64_ROOT}\n\n",
        f"a\n7\n{B64_ROOT}\n\nextension\n",
        f"a\n7\n{B64_ROOT}\nextension",
    ],
)
def test_malformed_checkpoint_text_is_refused(text):
    with pytest.raises(CheckpointError):
        checkpoints.decode_checkpoint(text)


@pytest.mark.parametrize(
    "fields",
    [
        {"origin": ""},
        {"tree_size": -1},
        {"root_hash": bytes(31)},
        {"extension_lines": ("",)},
        {"extension_lines": ("a\nb",)},
    ],
)
def test_impossible_checkpoint_is_not_written(fields):
    with pytest.raises(CheckpointError):
        checkpoints.encode_checkpoint(Checkpoint(**{"origin": "a", "tree_size": 7, "root_hash": ROOT, **fields}))


def test_quorum_counts_witnesses_and_groups():
    """
    Two of three groups must agree: w0; any of w1; all of w2.
    """
    text = WITNESS_LINES + "group b any w1\ngroup c all w2\ngroup q 2 w0 b c\nquorum q\n"
    pinned = policy(text)
    for who in [(0, 1), (1, 2), (0, 2), (0, 1, 2)]:
        opened = pinned.open_checkpoint(cosigned(*who))
        assert 2 + len(who) == len(opened.verified)
    for who in [(), (0,), (1,), (2,)]:
        with pytest.raises(QuorumMissing) as caught:
            pinned.open_checkpoint(cosigned(*who))
        assert tuple(f"w{n}" for n in who) == caught.value.cosigned_by
    assert 3 == len(policy(WITNESS_LINES + "quorum w0\n").open_checkpoint(cosigned(0)).verified)


def test_a_pinned_witness_whose_signature_fails_makes_the_checkpoint_invalid():
    bad = WITNESSES[0].sign(notes.parse_note(vectors.V5_CHECKPOINTS[300].encode()).text, time_s=TIME_S)
    with pytest.raises(SignatureInvalid):
        policy(WITNESS_LINES + "quorum none\n").open_checkpoint(checkpoints.add_signatures(NOTE, [bad]))


def test_least_size_refuses_rollback_and_another_root():
    for size in (6, 7):
        policy(f"size {vectors.ORIGIN} {size} {B64_ROOT}\nquorum none\n").open_checkpoint(NOTE)
    with pytest.raises(RolledBack) as caught:
        policy(f"size {vectors.ORIGIN} 8 {B64_ROOT}\nquorum none\n").open_checkpoint(NOTE)
    assert (7, 8) == (caught.value.tree_size, caught.value.least_size)
    other = base64.b64encode(bytes(32)).decode()
    with pytest.raises(RootMismatch):
        policy(f"size {vectors.ORIGIN} 7 {other}\nquorum none\n").open_checkpoint(NOTE)


def test_policy_reads_as_it_was_written():
    text = (
        f"# who we trust\n\n  {LOGS}size {vectors.ORIGIN} 7 {B64_ROOT}\n"
        f"witness w0\t{WITNESSES[0].verifier_key.encode()}  https://witness.example.com/\n"
        f"witness w1 {WITNESSES[1].verifier_key.encode()}\ngroup g all w0 w1\nquorum g\n"
    )
    pinned = decode_policy(text.encode())
    assert pinned == decode_policy(encode_policy(pinned))
    assert LOG_KEYS == pinned.logs[vectors.ORIGIN]
    assert {WITNESSES[0].verifier_key.encode(): "https://witness.example.com/"} == pinned.urls
    assert (2, ("w0", "w1")) == (pinned.groups["g"].threshold, pinned.groups["g"].members)
    assert 7 == pinned.least_sizes[vectors.ORIGIN].tree_size


def test_a_policy_that_would_be_read_as_another_is_not_written():
    """An address of a key that is in no line would be lost."""
    pinned = policy("quorum none\n")
    with pytest.raises(PolicyError, match="survive"):
        encode_policy(
            dataclasses.replace(pinned, urls={WITNESSES[0].verifier_key.encode(): "https://witness.example.com/"})
        )


def test_forty_logs_witnesses_and_groups_are_read():
    text = "quorum none\n"
    for n in range(40):
        seed = bytes([n]) * 32
        text += f"log {SignerKey(name=f'log{n}', key_type=notes.ED25519, seed=seed).verifier_key.encode()}\n"
        key = SignerKey(name=f"wit{n}", key_type=notes.ED25519_COSIGNATURE, seed=bytes([n + 100]) * 32).verifier_key
        text += f"witness w{n} {key.encode()}\ngroup g{n} any w{n}\n"
    pinned = decode_policy(text.encode())
    assert (40, 40, 40) == (len(pinned.logs), len(pinned.witnesses), len(pinned.groups))


W0, W1 = (witness.verifier_key.encode() for witness in WITNESSES[:2])
BAD_POLICIES = {
    "nothing": "",
    "no log": "quorum none\n",
    "no quorum": LOGS,
    "two quorums": LOGS + "quorum none\nquorum none\n",
    "quorum undefined": LOGS + "quorum w0\n",
    "quorum above its witness": LOGS + f"quorum w0\nwitness w0 {W0}\n",
    "unknown line": LOGS + "trust everybody\nquorum none\n",
    "upper case": LOGS + "Quorum none\n",
    "log key twice": LOGS + LOGS + "quorum none\n",
    "second key of one type": LOGS
    + f"log {SignerKey(name=vectors.ORIGIN, key_type=notes.ED25519, seed=bytes(32)).verifier_key.encode()}\nquorum none\n",
    "log key as witness": LOGS + f"witness w0 {ED25519.verifier_key.encode()}\nquorum none\n",
    "witness key as log": f"log {W0}\nquorum none\n",
    "witness key twice": LOGS + f"witness w0 {W0}\nwitness w1 {W0}\nquorum none\n",
    "witness name twice": LOGS + f"witness w0 {W0}\nwitness w0 {W1}\nquorum none\n",
    "witness called none": LOGS + f"witness none {W0}\nquorum none\n",
    "witness without key": LOGS + "witness w0\nquorum none\n",
    "group of undefined": LOGS + "group g any w0\nquorum none\n",
    "group of itself": LOGS + "group g any g\nquorum none\n",
    "member twice": LOGS + f"witness w0 {W0}\ngroup g any w0 w0\nquorum none\n",
    "member of two": LOGS + f"witness w0 {W0}\ngroup g any w0\ngroup h any w0\nquorum none\n",
    "empty group": LOGS + "group g all\nquorum none\n",
    "threshold 0": LOGS + f"witness w0 {W0}\ngroup g 0 w0\nquorum none\n",
    "threshold too high": LOGS + f"witness w0 {W0}\ngroup g 2 w0\nquorum none\n",
    "threshold +1": LOGS + f"witness w0 {W0}\ngroup g +1 w0\nquorum none\n",
    "two addresses": LOGS + f"witness w0 {W0} a b\nquorum none\n",
    "size of a foreign log": LOGS + f"size other 7 {B64_ROOT}\nquorum none\n",
    "size twice": LOGS + f"size {vectors.ORIGIN} 7 {B64_ROOT}\n" * 2 + "quorum none\n",
    "size with a short root": LOGS + f"size {vectors.ORIGIN} 7 QQ==\nquorum none\n",
    "size with a zero": LOGS + f"size {vectors.ORIGIN} 07 {B64_ROOT}\nquorum none\n",
    "cut last line": LOGS + "quorum none",
    "carriage return": LOGS + "quorum none\r\n",
    "byte order mark": "\ufeff" + LOGS + "quorum none\n",
    "too long": LOGS + "#" * 1_100_000 + "\nquorum none\n",
}


@pytest.mark.parametrize("fault", BAD_POLICIES)
def test_malformed_policy_is_refused(fault):
    with pytest.raises(PolicyError):
        decode_policy(BAD_POLICIES[fault].encode())


def test_policy_error_names_its_line():
    with pytest.raises(PolicyError, match="policy line 3: ") as caught:
        decode_policy((LOGS + "trust everybody\n").encode())
    assert 3 == caught.value.line_number
    with pytest.raises(PolicyError):
        decode_policy(b"\xff\n")


def test_no_truncation_of_a_policy_and_no_change_of_its_keys_is_accepted():
    text = f"log {vectors.V5_LOG_VKEY}\nquorum none\n".encode()
    for at in range(len(text)):
        with pytest.raises(PolicyError):
            decode_policy(text[:at])
    key_end = text.index(b"\n")
    for changed in vectors.all_changes(text[4:key_end]):
        with pytest.raises(PolicyError):
            decode_policy(text[:4] + changed + text[key_end:])
