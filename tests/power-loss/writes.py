"""What dm-log-writes wrote down: every write that a device was asked for and that was done, in the order in which they became
certain. A write that no flush followed comes after the flush that does not cover it."""

import os
import struct

MAGIC = 0x6A736677736872
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
SECTOR = 512


class Entry:
    """A write, a flush or a mark."""

    __slots__ = ("sector", "sectors", "flags", "at", "mark")

    def __init__(self, sector, sectors, flags, at, mark):
        self.sector, self.sectors, self.flags, self.at, self.mark = sector, sectors, flags, at, mark

    @property
    def writes(self):
        return self.sectors > 0 and not self.flags & MARK


class Writes:
    """The log of a device, which is written by nobody any more."""

    def __init__(self, device):
        self.file = os.open(device, os.O_RDONLY)
        magic, version, count, self.size = struct.unpack("<QQQI", os.pread(self.file, 28, 0))
        if (magic, version, self.size) != (MAGIC, 1, SECTOR):
            raise ValueError(f"{device} holds no log of writes")
        self.all, at = [], SECTOR
        for _ in range(count):
            head = os.pread(self.file, SECTOR, at)
            sector, sectors, flags, length = struct.unpack_from("<QQQQ", head)
            mark = head[32 : 32 + length].rstrip(b"\0").decode() if flags & MARK else None
            self.all.append(Entry(sector, sectors, flags, at + SECTOR, mark))
            at += SECTOR + (0 if flags & (DISCARD | MARK) else sectors * SECTOR)

    def data(self, entry):
        if entry.flags & DISCARD:
            return bytes(entry.sectors * SECTOR)
        return os.pread(self.file, entry.sectors * SECTOR, entry.at)


class Replay:
    """A device that is made what the logged one was, one write after the other."""

    def __init__(self, writes, device):
        self.writes, self.device, self.done = writes, device, 0
        self.file = os.open(device, os.O_RDWR)

    def up_to(self, count):
        """As it was when so many entries were done."""
        assert count >= self.done
        put(self.file, [(entry.sector, self.writes.data(entry)) for entry in self.writes.all[self.done : count] if entry.writes])
        self.done = count


def put(file, pieces):
    """Pairs of sector and bytes, on the device when this returns."""
    for sector, data in pieces:
        os.pwrite(file, data, sector * SECTOR)
    if pieces:
        os.fsync(file)


def copy(source, target):
    """A device onto one that holds zeroes alone."""
    piece = 1 << 20
    zeroes = bytes(piece)
    with open(source, "rb", 0) as read, open(target, "r+b", 0) as write:
        at = 0
        while data := read.read(piece):
            if data != zeroes[: len(data)]:
                os.pwrite(write.fileno(), data, at)
            at += len(data)
        os.fsync(write.fileno())
