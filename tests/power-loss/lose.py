#!/usr/bin/python3
"""Loses the power of a disk with a ledger on it, at each of its writes, and looks at what is left. Runs inside the machine
that `run` boots: it takes its memory disks for its own.

    lose.py PROGRAM SEED
"""

import errno
import json
import multiprocessing
import os
import random
import struct
import subprocess
import sys
import time
import traceback

import dm
from writes import FLUSH, FUA, SECTOR, Replay, Writes, copy, put

PROGRAM, SEED = sys.argv[1], int(sys.argv[2])
WORK = "/run/power-loss"
KEY = f"{WORK}/log.key"
DISK, LOG, FLAKY = "/dev/ram0", "/dev/ram1", "/dev/ram2"
# Of each who looks: what the disk was at some write, and what is changed in looking.
LOOKERS = [(f"/dev/ram{number}", f"/dev/ram{number + 1}") for number in range(3, 3 + 2 * os.cpu_count(), 2)]
# Changes, as many again as fill the log's journal, and so many over its end. While it is filled power is lost at some writes
# only, so many: there is little that is new, and most to be read.
CHANGES, BETWEEN, WRAP = 280, 6, 40
# Writes that no flush followed, kept or lost in so many ways by chance.
CHANCES, LIES = 120, 10
BLOCK = 4096 // SECTOR
# The first change that fills the journal, as the program numbers them.
LARGE = 1 << 20
started = time.monotonic()


def say(text):
    print(f"power-loss: {time.monotonic() - started:4.0f} s  {text}", flush=True)


def format_disk(device):
    # The size from which on ext4 is made with the same defaults as on any larger disk. Nothing of it is made later, by a
    # thread of the kernel's, among the writes that are looked at.
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=0,lazy_journal_init=0", device], check=True)


class Writer:
    """The program that writes, and what it says; it does nothing more until it is answered."""

    def __init__(self, data, entries, first, count, *how):
        command = [PROGRAM, "write", data, KEY, entries, "--first", str(first), "--count", str(count), *how]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def __iter__(self):
        for line in self.process.stdout:
            yield line.rstrip("\n")
            self.process.stdin.write("\n")
        if self.process.wait():
            raise RuntimeError(f"the writer failed: {self.process.returncode}")


class Looker:
    """Opens a ledger on a device that is as a loss of power left it. What that changes is forgotten."""

    def __init__(self, changes, entries, acks):
        self.changes, self.name = changes, "looked-" + os.path.basename(changes)
        self.directory = f"{WORK}/{self.name}"
        os.makedirs(self.directory, exist_ok=True)
        command = [PROGRAM, "check", KEY, entries, acks]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def look(self, device, pieces, count):
        """What is wrong, or None, where so many were acknowledged."""
        seen = dm.Mapped(self.name, dm.sectors(device), f"snapshot {device} {self.changes} N {BLOCK}")
        try:
            if pieces:
                file = os.open(seen.path, os.O_RDWR)
                put(file, pieces)
                os.close(file)
            try:
                dm.mount(seen.path, self.directory)
            except OSError as failure:
                return str(failure)
            try:
                self.process.stdin.write(f"{self.directory}/data {count}\n")
                said = self.process.stdout.readline().rstrip("\n") or "bad it ended"
            finally:
                dm.unmount(self.directory)
        finally:
            seen.remove()
        return None if said.startswith("ok ") else said


class Loss:
    """Power that is lost when so many entries of the log of writes were done, and these pieces."""

    def __init__(self, what, done, pieces, count, lie=False):
        self.what, self.done, self.pieces, self.count, self.lie = what, done, pieces, count, lie


def write_down():
    """The log of a disk on which a ledger is made and written, and where on it the ledger's journal lies."""
    format_disk(DISK)
    for held, _ in LOOKERS:
        copy(DISK, held)
    logged = dm.Mapped("logged", dm.sectors(DISK), f"log-writes {DISK} {LOG}")
    os.makedirs(f"{WORK}/logged")
    dm.mount(logged.path, f"{WORK}/logged")
    os.mkdir(f"{WORK}/logged/data")
    with open(f"{WORK}/acks", "w") as acks:
        for line in Writer(f"{WORK}/logged/data", f"{WORK}/entries", 0, CHANGES, "--wrap", str(WRAP)):
            if line.startswith(("refused", "still")):
                raise RuntimeError(line)
            logged.message(f"mark {line.replace(' ', '-')}")
            if line.startswith("ack "):
                acks.write(line[4:] + "\n")
    journal = dm.extents(f"{WORK}/logged/data/log.journal")
    dm.unmount(f"{WORK}/logged")
    logged.remove()
    return Writes(LOG), journal


class Course:
    """What the log of writes says of the ledger, and where power is to be lost."""

    def __init__(self, writes, journal):
        self.writes, self.all = writes, writes.all
        self.journal = journal
        self.opened = self.marked("opened")
        self.filling = self.marked(f"ack-{LARGE}")
        self.filled = self.marked("filled")
        # Acknowledged when so many entries were done, and whatever came up to the next write, which changed nothing.
        self.acks, count = [], 0
        for entry in self.all:
            count += bool(entry.mark and entry.mark.startswith("ack-"))
            self.acks.append(count)
        self.until = [0] * len(self.all)
        for at in reversed(range(len(self.all))):
            later = at + 1 < len(self.all) and not self.all[at + 1].writes
            self.until[at] = self.until[at + 1] if later else self.acks[at]

    def marked(self, mark):
        return next(at for at, entry in enumerate(self.all) if entry.mark == mark)

    def in_journal(self, entry):
        """Where in the ledger's journal it is written; None: it is not."""
        before = 0
        for sector, sectors in self.journal:
            if sector <= entry.sector < sector + sectors:
                return before + entry.sector - sector
            before += sectors
        return None

    def wraps(self):
        """How often the ledger's journal was written from its end on to its beginning."""
        length = sum(sectors for _, sectors in self.journal)
        places = [self.in_journal(entry) for entry in self.all[self.filled :] if entry.writes]
        places = [place for place in places if place is not None]
        return sum(before > length * 9 // 10 and after < length // 10 for before, after in zip(places, places[1:]))

    def at_writes(self):
        """After each write since the ledger was opened, and some of those that fill its journal."""
        filling = self.written(self.filling, self.filled)
        some = filling[:: max(1, len(filling) // BETWEEN)]
        every = self.written(self.opened, self.filling) + self.written(self.filled, len(self.all))
        return [Loss(f"after write {at}", at + 1, [], self.until[at]) for at in every + some], len(every)

    def written(self, begin, end):
        return [at for at in range(begin, end) if self.all[at].writes]

    def by_chance(self, chance):
        """Between two flushes, with some of the writes that neither covers."""
        groups, begin = [], self.opened
        for at in range(self.opened, self.filling):
            if self.all[at].flags & FLUSH:
                blocks = [self.blocks(entry) for entry in self.all[begin:at] if entry.writes and not entry.flags & FUA]
                if sum(map(len, blocks)) > 1:
                    groups.append((begin, at))
                begin = at + 1
        losses = []
        for _ in range(CHANCES):
            begin, end = chance.choice(groups)
            kept, pieces = chance.choice((0.1, 0.5, 0.5, 0.9)), []
            for entry in self.all[begin:end]:
                # A write that was to be certain by itself is.
                certain = entry.flags & FUA
                pieces += [block for block in self.blocks(entry) if certain or chance.random() < kept]
            losses.append(Loss(f"between the flushes at {begin} and {end}, by chance", begin, pieces, self.acks[end - 1]))
        return losses, len(groups)

    def lies(self, chance):
        """A disk that says of a record of the journal that it is certain, and loses it, when one of its entries was
        acknowledged: if that is not found, this test finds nothing."""
        entry_of, found = entries_by_number(), []
        with open(f"{WORK}/acks") as file:
            acknowledged = [entry_of[int(line)] for line in file]
        for at in self.written(self.opened, self.filling):
            data = self.writes.data(self.all[at])
            if self.in_journal(self.all[at]) is not None and data.startswith(b"\xffholmj1\n"):
                first, entries = struct.unpack_from(">QI", data, 16)
                if any(first <= entry < first + entries for entry in acknowledged[: self.until[at]]):
                    found.append(Loss(f"with write {at} lost, which was flushed", at, [], self.until[at], True))
        return chance.sample(found, min(LIES, len(found)))

    def blocks(self, entry):
        """A write in the pieces that a disk may write by themselves."""
        if not entry.writes:
            return []
        data = self.writes.data(entry)
        return [
            (entry.sector + at, data[at * SECTOR : (at + BLOCK) * SECTOR]) for at in range(0, entry.sectors, BLOCK)
        ]


def entries_by_number():
    """Which entry of the log each change is."""
    found = {}
    with open(f"{WORK}/entries", "rb") as file:
        while length := file.read(4):
            entry = json.loads(file.read(int.from_bytes(length, "big")))
            found[int(entry["resource"].removeprefix("person/"))] = entry["index"]
    return found


def look_at(losses, number, said):
    """A part of the losses, in the order of the log of writes, by one of several at once."""
    held, changes = LOOKERS[number]
    try:
        replay = Replay(Writes(LOG), held)
        looker = Looker(changes, f"{WORK}/entries", f"{WORK}/acks")
        for loss in losses:
            replay.up_to(loss.done)
            said.put((loss.what, loss.lie, looker.look(held, loss.pieces, loss.count)))
    except BaseException:
        said.put(traceback.format_exc())


def look_at_all(losses):
    """How many of those whose disk did not lie are bad, and how many lies were found."""
    losses.sort(key=lambda loss: loss.done)
    said = multiprocessing.Queue()
    # To each of them long ledgers and short ones alike.
    for number in range(len(LOOKERS)):
        mine = losses[number :: len(LOOKERS)]
        multiprocessing.Process(target=look_at, args=(mine, number, said), daemon=True).start()
    bad, found = 0, 0
    for count in range(1, len(losses) + 1):
        answer = said.get()
        if isinstance(answer, str):
            raise RuntimeError(answer)
        what, lie, why = answer
        if lie:
            found += why is not None and "are missing" in why
        elif why is not None:
            bad += 1
            say(f"FAILED {what}: {why}")
            if bad == 10:
                raise RuntimeError("the rest is not looked at")
        if count % 100 == 0:
            say(f"looked at {count} of {len(losses)}")
    return bad, found


def every_write():
    writes, journal = write_down()
    course, chance = Course(writes, journal), random.Random(SEED)
    kinds = [sum(1 for entry in writes.all if is_one(entry)) for is_one in (
        lambda entry: entry.writes, lambda entry: entry.flags & FLUSH, lambda entry: entry.flags & FUA)]
    say(f"a ledger, made and written by several at once: {kinds[0]} writes, {kinds[1]} flushes, {kinds[2]} writes that are "
        f"certain by themselves, {course.acks[-1]} acknowledgements; from the end of its journal to the beginning {course.wraps()} times")
    at_writes, every = course.at_writes()
    by_chance, groups = course.by_chance(chance)
    lies = course.lies(chance)
    say(f"power is lost at {len(at_writes)} writes, {every} of them all that there were but while the journal was filled; {len(by_chance)} times between flushes, "
        f"of which there are {groups}, with what no flush covered kept or lost by chance (seed {SEED})")
    bad, found = look_at_all(at_writes + by_chance + lies)
    say(f"{len(at_writes) + len(by_chance)} losses of power, {bad} bad; of {len(lies)} disks that lied, {found} found")
    if not course.wraps() or not lies:
        raise RuntimeError("its journal was not written from the end to the beginning, or nobody was answered right after a write")
    return not bad and found == len(lies)


def a_disk_that(does, rounds, chance):
    """Writes are dropped, or fail, from a moment on: what was acknowledged by then is there, and nothing more is where it
    fails."""
    straight = f"linear {FLAKY} 0"
    format_disk(FLAKY)
    disk, directory = dm.Mapped("flaky", dm.sectors(FLAKY), straight), f"{WORK}/{does}"
    os.makedirs(directory)
    dm.mount(disk.path, directory)
    os.mkdir(f"{directory}/data")
    acks, good = [], True
    for number in range(rounds):
        moment, late, why, still = chance.randrange(5, 120), 0, "", False
        before = len(acks)
        for line in Writer(f"{directory}/data", f"{WORK}/entries-{does}", 1000 * number, 150):
            if line.startswith("ack ") and len(acks) < before + moment:
                acks.append(line[4:])
                if len(acks) == before + moment:
                    disk.becomes(f"flakey {FLAKY} 0 0 3600 1 {does}")
            elif line.startswith("ack "):
                late += 1
            elif line.startswith("refused "):
                why = line[8:]
            elif line == "nearly ended" and does == "error_writes":
                # All is well again, but for whoever was told otherwise.
                disk.becomes(straight)
            elif line.startswith("still "):
                still = True
        dm.unmount(directory)
        disk.becomes(straight)
        with open(f"{WORK}/acks-{does}", "w") as file:
            file.write("".join(f"{ack}\n" for ack in acks))
        looker = Looker(LOOKERS[0][1], f"{WORK}/entries-{does}", f"{WORK}/acks-{does}")
        wrong = looker.look(FLAKY, [], len(acks))
        if wrong is None and does == "error_writes" and not (why and still):
            wrong = f"{late} were acknowledged afterwards, and not: {why!r}, {still}"
        good = good and wrong is None
        said = f"; {late} more, then: {why}" if why else ""
        say(f"{does} from acknowledgement {moment} on: {wrong or 'all ' + str(len(acks)) + ' are there'}{said}")
        dm.mount(disk.path, directory)
    dm.unmount(directory)
    disk.remove()
    return good


def a_full_disk():
    """Not a byte is free while the ledger runs: its journal has its length from the start, so everybody is answered."""
    format_disk(FLAKY)
    directory, acks = f"{WORK}/full", []
    os.makedirs(directory)
    dm.mount(FLAKY, directory)
    os.mkdir(f"{directory}/data")
    for line in Writer(f"{directory}/data", f"{WORK}/entries-full", 0, 150):
        if line == "opened":
            fill(f"{directory}/ballast")
        elif line.startswith("ack "):
            acks.append(line[4:])
        elif line == "ended":
            # By what can be had, not by what statvfs counts: ext4 keeps 2 % for itself, and gives it to no file.
            free = fill(f"{directory}/more")
    for name in ("ballast", "more"):
        os.unlink(f"{directory}/{name}")
    dm.unmount(directory)
    with open(f"{WORK}/acks-full", "w") as file:
        file.write("".join(f"{ack}\n" for ack in acks))
    wrong = Looker(LOOKERS[0][1], f"{WORK}/entries-full", f"{WORK}/acks-full").look(FLAKY, [], len(acks))
    say(f"{free} bytes to be had on the disk: {len(acks)} of 151 were acknowledged, and {wrong or 'all are there'}")
    return wrong is None and len(acks) == 151 and not free


def fill(path):
    """Takes what is free, and the reserve of root's with it: how many bytes."""
    at = 0
    with open(path, "wb") as file:
        for piece in (64 << 20, 1 << 20, 4096):
            while True:
                try:
                    os.posix_fallocate(file.fileno(), at, piece)
                except OSError as failure:
                    if failure.errno != errno.ENOSPC:
                        raise
                    break
                at += piece
    return at


def main():
    os.makedirs(WORK)
    chance = random.Random(SEED)
    good = every_write()
    good = a_disk_that("drop_writes", 5, chance) and good
    good = a_disk_that("error_writes", 3, chance) and good
    good = a_full_disk() and good
    say("passed" if good else "failed")


main()
