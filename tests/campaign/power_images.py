"""
What a power cut at an instant may leave of a recorded folder: the model of the disk.

In the tradition of SQLite's crash tests, ALICE (Pillai et al., 2014) and CrashMonkey (Mohan et al., 2018): promised is only
what POSIX promises, and everything else may have happened or not, in any order.

- **A sync that returned keeps its promise.** Data and size of a file are there as they were when its last sync returned;
  names of a directory as they were when the directory's last sync returned. A sync of a file promises nothing about its
  name, a sync of a directory nothing about what its files hold.
- **A sector of 512 bytes is whole.** It holds what the page cache held for it at some moment between the file's last sync and
  the cut, each sector by itself. So an unsynced write is dropped, kept or torn at sectors (prefix, suffix, random ones),
  writes arrive out of order, and a sector written twice may hold its middle state. A write harms no byte beside it
  (SQLite calls that power-safe overwrite).
- **A size is as it was at some moment since the last sync, whatever the data are.** Longer than the data: zeros between.
  Shorter: data beyond are gone. A truncation is no different.
- **A name is its own affair.** Each change of a directory since its last sync has happened or not. A rename inside a
  directory is atomic: both names change, or none; from one directory to another it is two changes. A name that came back stands for the file it stood for.
- **Removed files** are gone once their directory was synced, and may be back before.
- `-shm` files are never there, and nothing runs on: all locks are free.

That is harsher than ext4, XFS or APFS in their usual mountings, which keep the order of changes to names, and no disk is as
bad in each respect at once; what survives here survives there. Not modelled: sectors that tear inside, a disk that lies about
its syncs, bits that rot.

An image is drawn at random, but not evenly: one in four keeps the order of time over all files (the disk of an hour ago, as it
were), others lose or keep everything of one file and mix another, so that each simple accident comes often and each
combination sometimes.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from tests.campaign.power_recording import (
    ROOT_DIRECTORY,
    Event,
    Link,
    Recording,
    Sync,
    Truncate,
    Write,
)

SECTOR: Final = 512


@dataclass(slots=True)
class _File:
    durable: bytes = b""
    since: list[tuple[int, Write | Truncate]] = field(default_factory=list)
    """What happened since the last sync, with the moment."""


@dataclass(slots=True)
class _Names:
    durable: dict[str, int] = field(default_factory=dict)
    since: list[tuple[int, Link]] = field(default_factory=list)


class Disk:
    """The disk behind a recording at one moment, which only moves on."""

    def __init__(self, recording: Recording) -> None:
        self._events = recording.events
        self._files = {number: _File(data) for number, data in recording.contents.items()}
        self._names = {number: _Names() for number in recording.directories}
        for number, names in recording.at_start.items():
            self._names[number].durable = dict(names)
        self.now = 0

    def move_to(self, moment: int) -> None:
        """Let everything before event number `moment` have happened."""
        for at in range(self.now, moment):
            self._apply(at, self._events[at])
        self.now = moment

    def _apply(self, at: int, event: Event) -> None:
        match event:
            case Link(directory, names):
                self._names[directory].since.append((at, event))
                for _, number in names:
                    if number is not None and number not in self._names and number not in self._files:
                        self._files[number] = _File()
            case Write(number, _, _) | Truncate(number, _):
                self._files[number].since.append((at, event))
            case Sync(number):
                if number in self._names:
                    names = self._names[number]
                    names.durable, names.since = _named(names, range(len(names.since))), []
                else:
                    file = self._files[number]
                    file.durable, file.since = _all(file), []

    def everything(self) -> dict[str, bytes]:
        """The folder as it is, with nothing lost."""
        found: dict[str, bytes] = {}
        self._collect(ROOT_DIRECTORY, "", found, lambda names: range(len(names.since)), _all)
        return found

    def image(self, draw: random.Random) -> dict[str, bytes]:
        """One folder that a power cut now may leave: bytes by relative path."""
        found: dict[str, bytes] = {}
        style = draw.random()
        if style < 0.25:  # the order of time is kept: nothing after a moment is there
            least = min((at for at in self._unsynced()), default=self.now)
            until = draw.randint(least, self.now)
            self._collect(
                ROOT_DIRECTORY,
                "",
                found,
                lambda names: [place for place, (at, _) in enumerate(names.since) if at < until],
                lambda file: _prefix(file, sum(at < until for at, _ in file.since)),
            )
        else:
            self._collect(
                ROOT_DIRECTORY,
                "",
                found,
                lambda names: _drawn_names(names, draw),
                lambda file: _drawn_content(file, draw),
            )
        return found

    def _unsynced(self) -> Iterable[int]:
        for held in (*self._files.values(), *self._names.values()):
            for at, _ in held.since:
                yield at

    def _collect(self, directory, prefix, found, choose_names, choose_content) -> None:
        names = self._names[directory]
        for name, number in _named(names, choose_names(names)).items():
            if number in self._names:
                found[prefix + name + "/"] = b""
                self._collect(number, f"{prefix}{name}/", found, choose_names, choose_content)
            else:
                found[prefix + name] = choose_content(self._files[number])


def _named(names: _Names, kept: Iterable[int]) -> dict[str, int]:
    """The names with these of the unsynced changes."""
    result = dict(names.durable)
    for place in kept:
        for name, number in names.since[place][1].names:
            if number is None:
                result.pop(name, None)
            else:
                result[name] = number
    return result


def _drawn_names(names: _Names, draw: random.Random) -> Iterable[int]:
    count = len(names.since)
    if not count:
        return ()
    style = draw.random()
    if style < 0.35:
        return range(count)
    if style < 0.5:
        return ()
    if style < 0.75:
        return range(draw.randint(0, count))
    return [place for place in range(count) if draw.random() < 0.5]


# Content --------------------------------------------------------------------------------------------------------


def _all(file: _File) -> bytes:
    return _prefix(file, len(file.since))


def _prefix(file: _File, count: int) -> bytes:
    """The file after the first `count` of its unsynced changes."""
    if not count:
        return file.durable
    data = bytearray(file.durable)
    for _, change in file.since[:count]:
        if isinstance(change, Truncate):
            _resize(data, change.size)
        else:
            end = change.offset + len(change.data)
            if len(data) < end:
                _resize(data, end)
            data[change.offset : end] = change.data
    return bytes(data)


def _resize(data: bytearray, size: int) -> None:
    if len(data) > size:
        del data[size:]
    else:
        data.extend(bytes(size - len(data)))


def _drawn_content(file: _File, draw: random.Random) -> bytes:
    count = len(file.since)
    if not count:
        return file.durable
    style = draw.random()
    if style < 0.2:
        return _all(file)
    if style < 0.35:
        return file.durable
    if style < 0.5:
        return _prefix(file, draw.randint(0, count))
    if style < 0.75:
        return _torn(file, draw)
    return _mixed(file, draw)


def _torn(file: _File, draw: random.Random) -> bytes:
    """Some whole changes, then one of which some sectors arrived, then nothing."""
    last = draw.randrange(len(file.since))
    sectors = _sectors(file.since[last][1], len(_all(file)))
    kind = draw.random()
    cut = draw.randint(0, len(sectors))
    if kind < 0.4:
        kept = set(sectors[:cut])
    elif kind < 0.7:
        kept = set(sectors[cut:])
    else:
        kept = {sector for sector in sectors if draw.random() < 0.5}
    return _with_versions(
        file, lambda sector: last + (sector in kept), size_version=draw.choice((last, last + 1, len(file.since)))
    )


def _mixed(file: _File, draw: random.Random) -> bytes:
    """Each sector as it was at a moment of its own."""
    count = len(file.since)
    versions: dict[int, int] = {}
    loss = draw.choice((0.1, 0.5, 0.9))

    def version(sector: int) -> int:
        if sector not in versions:
            versions[sector] = draw.randint(0, count) if draw.random() < loss else count
        return versions[sector]

    return _with_versions(file, version, size_version=draw.choice((0, count, count, draw.randint(0, count))))


def _sectors(change: Write | Truncate, size: int) -> range:
    if isinstance(change, Truncate):
        return range(change.size // SECTOR, max(change.size, size) // SECTOR + 1)
    return range(change.offset // SECTOR, (change.offset + len(change.data) - 1) // SECTOR + 1)


def _with_versions(file: _File, version, *, size_version: int) -> bytes:
    """The file with each sector after the first `version(sector)` unsynced changes, and the size after `size_version`."""
    size = len(file.durable)
    largest = size
    data = bytearray(file.durable)
    wanted = size
    for place, (_, change) in enumerate(file.since):
        if isinstance(change, Truncate):
            if len(data) > change.size:
                for sector in range(change.size // SECTOR, (len(data) - 1) // SECTOR + 1):
                    if place < version(sector):
                        start, stop = max(change.size, sector * SECTOR), min(len(data), (sector + 1) * SECTOR)
                        data[start:stop] = bytes(stop - start)
            size = change.size
        else:
            end = change.offset + len(change.data)
            if len(data) < end:
                _resize(data, end)
            for sector in _sectors(change, 0):
                if place < version(sector):
                    start, stop = max(change.offset, sector * SECTOR), min(end, (sector + 1) * SECTOR)
                    data[start:stop] = change.data[start - change.offset : stop - change.offset]
            size = max(size, end)
        largest = max(largest, size)
        if place < size_version:
            wanted = size
    _resize(data, wanted)
    return bytes(data)
