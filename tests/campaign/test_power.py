"""Power cuts: what a disk may leave of a home at any instant is a log that has all it promised, and goes on."""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path

import pytest
from tests.campaign.power import PROMISES, campaign, publish_home
from tests.campaign.power_images import SECTOR, Disk
from tests.campaign.power_recording import Recording
from tests.campaign.results import Result, recorded
from tests.journal.homes import an_intent, an_outcome, drain, new_home, new_spool, of_kind, statuses, write_calls

from openrouter_audit.cli.verify import verify_home
from openrouter_audit.journal.home import Home
from openrouter_audit.journal.segments import HEADER_BYTES

CI_IMAGES = 2_000
LONG_IMAGES = 20_000


@pytest.fixture
def memory():
    """A folder that is no disk: thousands of homes are made in it."""
    shared = Path("/dev/shm")
    usable = shared.is_dir() and os.access(shared, os.W_OK)
    with tempfile.TemporaryDirectory(dir=shared if usable else None) as folder:
        yield Path(folder)


@pytest.mark.parametrize(
    "images",
    [pytest.param(CI_IMAGES, id="sample"), pytest.param(LONG_IMAGES, id="all", marks=pytest.mark.long)],
)
def test_a_power_cut_at_any_instant_leaves_what_was_promised(memory, images):
    """
    Homes live, are cut off at any instant, some once more while they recover, and each image is opened, drained and proved.
    """
    seed = int(os.environ.get("POWER_SEED") or random.SystemRandom().randrange(2**32))
    print(f"POWER_SEED={seed}")
    result = Result(
        campaign="3-power",
        what="power cut at any instant: unsynced writes dropped, torn at 512 bytes, out of order; unsynced names lost",
        unit="images",
        broken=dict.fromkeys(PROMISES, 0),
        seed=seed,
        again=f"POWER_SEED={seed} python3 dev.py test {'--long ' if images == LONG_IMAGES else ''}tests/campaign/test_power.py",
    )
    with recorded(result):
        tally = campaign(memory, seed=seed, images=images)
        result.points = tally.images
        result.broken.update(tally.broken)
        result.figures = {
            "records lost in buffer mode after the last commit": f"{tally.lost:,}",
            "of these said by an entry": f"{tally.said:,}",
            "images with a loss that could be known": f"{tally.images_with_loss:,}",
        }

    assert {} == tally.examples
    assert images <= tally.images
    assert 0 < tally.said < tally.lost


# The model itself -----------------------------------------------------------------------------------------------


def images_of(root, act, count=300):
    """Images after `act`, and the folder as it was."""
    recording = Recording(root)
    with recording.on():
        act()
    disk = Disk(recording)
    disk.move_to(len(recording.events))
    recording.check_complete({name: data for name, data in disk.everything().items() if name[-1] != "/"})
    return [disk.image(random.Random(number)) for number in range(count)]


def write_file(path, data, *, sync=False, flags=os.O_WRONLY | os.O_CREAT | os.O_APPEND):
    descriptor = os.open(path, flags)
    try:
        os.write(descriptor, data)
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def test_what_was_synced_is_in_every_image(memory):
    """
    Data and name are synced, each by its own sync; what is appended later can be there or not, in pieces.
    """
    old, new = os.urandom(700), os.urandom(4 * SECTOR)

    def act():
        write_file(memory / "kept", old, sync=True)
        sync_folder(memory)
        write_file(memory / "kept", new)

    images = images_of(memory, act)

    assert all(image["kept"][:700] == old for image in images)
    rests = {image["kept"][700:] for image in images}
    assert {b"", new} < rests
    assert any(bytes(SECTOR) in rest for rest in rests)  # a hole: later sectors came, earlier ones did not
    for rest in rests:  # each sector is new, or was never written
        for at in range(0, len(rest), 4):
            assert rest[at : at + 4] in {new[at : at + len(rest[at : at + 4])], bytes(len(rest[at : at + 4]))}


def test_a_name_without_a_sync_of_its_folder_may_be_lost_and_a_rename_is_whole(memory):
    """
    The file is synced, its renaming is not: it stands under the old name, under the new one, or under none.
    """

    def act():
        write_file(memory / "partial", b"x" * 100, sync=True)
        (memory / "partial").rename(memory / "whole")

    names = {tuple(image) for image in images_of(memory, act)}

    assert {(), ("partial",), ("whole",)} == names


def test_a_removed_file_may_come_back_until_its_folder_is_synced(memory):
    """
    Both the file and what it held.
    """
    write_file(memory / "removed", b"old", sync=True)
    images = images_of(memory, lambda: (memory / "removed").unlink())

    assert {(), (("removed", b"old"),)} == {tuple(image.items()) for image in images}
    write_file(memory / "removed", b"old", sync=True)

    def act():
        (memory / "removed").unlink()
        sync_folder(memory)

    assert [{}] * 50 == images_of(memory, act, 50)


# What power cuts taught -----------------------------------------------------------------------------------------


def test_a_new_home_is_there_after_a_power_cut_with_all_its_parents(memory):
    """
    Strict mode syncs a segment and its folder; that is worth nothing where the home's own name, or its parent's, is lost.
    """
    home = Home(memory / "made" / "for" / "it" / "home")

    for image in images_of(memory, home.ensure, 50):
        assert {"head", "policy", "journal.db", "vault.db", "keys/sealing.pub", "spool/", "state/"} <= {
            name.removeprefix("made/for/it/home/") for name in image
        }
        assert image["made/for/it/home/head"].split()[1] == b"0"


def unfinished(home, *, drained):
    """A process that wrote one whole call, one open one and then died; its segment, and the ids of the calls."""
    spool = new_spool(home)
    (whole,) = write_calls(spool, 1)
    waiting = an_intent()
    token = spool.write(waiting)
    if drained:
        drain(home)
    name = token.name
    spool.write(an_intent())
    del spool, token
    return home.spool_dir / f"{name}.seg", whole, waiting.id


@pytest.mark.parametrize("left", ["nothing", "no header", "zeros"])
def test_a_segment_that_is_gone_ends_its_calls_and_says_what_its_counter_knew(tmp_path, left):
    """
    Its frames were in the journal, but for one. Its intents end as unknown, and the one is a loss.
    """
    home = new_home(tmp_path)
    path, whole, waiting = unfinished(home, drained=True)
    if left == "nothing":
        path.unlink()
    else:
        path.write_bytes(b"" if left == "no header" else bytes(path.stat().st_size))
    entries = drain(home)

    assert {whole: "success", waiting: "unknown"} == statuses(entries)
    assert [("missing_tail", 1)] == [(loss["reason"], loss["count"]) for loss in of_kind(entries, "log.loss")]
    assert entries == drain(home)
    assert [] == [*home.spool_dir.iterdir(), *home.state_dir.iterdir()]
    assert (left != "nothing") == (home.quarantine_dir / path.name).exists()


def test_a_segment_of_which_only_the_counter_is_left_is_a_loss(tmp_path):
    """
    Nothing of it was in the journal yet: five frames are gone.
    """
    home = new_home(tmp_path)
    path, _, _ = unfinished(home, drained=False)
    path.unlink()
    entries = drain(home)

    assert [("log.loss", 5)] == [(entry["kind"], entry["count"]) for entry in entries]
    assert "incomplete" == verify_home(home).verdict
    assert entries == drain(home)


def test_a_segment_whose_renaming_was_forgotten_is_read(tmp_path):
    """
    The disk kept every frame, under the name of a segment that is only being made.
    """
    home = new_home(tmp_path)
    path, whole, waiting = unfinished(home, drained=False)
    path.rename(path.with_suffix(".new"))
    entries = drain(home)

    assert statuses(entries).items() >= {whole: "success", waiting: "unknown"}.items()
    assert [] == of_kind(entries, "log.loss")
    assert [] == list(home.spool_dir.iterdir())


def test_a_segment_being_made_is_left_alone(tmp_path):
    """
    Its file has a header and no name yet, its counter is at nothing: a writer may live behind it.
    """
    home = new_home(tmp_path)
    spool = new_spool(home)
    token = spool.write(an_intent())
    path = home.spool_dir / f"{token.name}.seg"
    header = path.read_bytes()[:HEADER_BYTES]
    made = path.with_name("0" * 32 + ".new")
    made.write_bytes(header)
    (home.state_dir / ("0" * 32)).write_bytes((home.state_dir / token.name).read_bytes()[:8].ljust(4096, b"\0"))
    entries = drain(home)

    assert [] == of_kind(entries, "log.loss")
    assert made.exists()


def test_a_counter_that_came_back_after_its_segment_was_removed_goes_again(tmp_path):
    """
    The two removals were in different folders, and the disk kept one of them. What it counted is in the journal.
    """
    home = new_home(tmp_path)
    path, _, _ = unfinished(home, drained=False)
    counter = (home.state_dir / path.stem).read_bytes()
    entries = drain(home)
    (home.state_dir / path.stem).write_bytes(counter)

    assert entries == drain(home)
    assert [] == list(home.state_dir.iterdir())


def test_an_intent_that_is_gone_without_a_trace_is_said_by_its_outcome(tmp_path):
    """
    The disk kept the later segment of a process and nothing of the earlier one. An outcome alone would look like tampering.
    """
    home = new_home(tmp_path)
    spool = new_spool(home, rotate_bytes=1)
    intent = an_intent()
    token = spool.write(intent)
    first = token.name
    token = spool.write(an_outcome(intent), follows=token)
    assert first != token.name
    del spool, token
    (home.spool_dir / f"{first}.seg").unlink()
    (home.state_dir / first).unlink()
    entries = drain(home)

    assert {intent.id: "success"} == statuses(entries)
    assert [("missing_tail", 1)] == [(loss["reason"], loss["count"]) for loss in of_kind(entries, "log.loss")]
    assert "incomplete" == verify_home(home).verdict


def test_the_published_folder_is_there_with_its_parents(memory):
    """
    Whoever was told that it is published finds it after a power cut.
    """
    home = new_home(memory)
    drain(home)
    images = images_of(memory, lambda: publish_home(home, memory / "www" / "logs" / "mine"), 50)

    assert all(image["www/logs/mine/checkpoint"].split(b"\n")[1] == b"0" for image in images)
