#!/usr/bin/env python3
"""Verify a log of Holm, a copy of its directory or what `holm audit export` wrote: offline, by Python 3.9 and nothing else.

KEY is the log's public key, NAME+HASH+KEY, or a file with it: from whoever ran `holmd init`, never from DIR. FILE is a
checkpoint of this log that was saved before (`holm audit checkpoint`): the log must begin with what it was then.
Exit code 0: every byte is what was signed. 1: it is not, and standard error says what. 2: it was called wrongly.

This shares no line with `holm audit verify`, and must come to the same verdict. Formats: https://c2sp.org/signed-note,
/tlog-checkpoint, /tlog-tiles; RFC 6962 (the tree), RFC 8032 (Ed25519); the entries: audit-log.md."""
import argparse, base64, datetime, hashlib, itertools, json, os, re, stat, sys, unicodedata
def need(condition, text):
    if not condition:
        raise ValueError(text)
def sha256(data): return hashlib.sha256(data).digest()

# ---- Ed25519: RFC 8032, section 5.1. A point is (X, Y, Z, T) with x = X/Z, y = Y/Z, x * y = T/Z.
P, L = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
D, ROOT_OF_MINUS_1 = -121665 * pow(121666, -1, P) % P, pow(2, (P - 1) // 4, P)
def add(p, q):  # section 5.1.4
    a, b = (p[1] - p[0]) * (q[1] - q[0]), (p[1] + p[0]) * (q[1] + q[0])
    c, d = 2 * p[3] * q[3] * D, 2 * p[2] * q[2]
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P
def multiply(n, p):
    q = (0, 1, 1, 0)
    while n:
        q, p, n = add(q, p) if n & 1 else q, add(p, p), n >> 1
    return q
def point(data):  # section 5.1.3
    sign, y = data[31] >> 7, int.from_bytes(data, "little") & (2**255 - 1)
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    x = x if (x * x - square) % P == 0 else x * ROOT_OF_MINUS_1 % P
    need(y < P and (x * x - square) % P == 0 and (x or not sign), "it is no point of the curve")
    x = x if x & 1 == sign else P - x
    return x, y, 1, x * y % P
BASE = point((4 * pow(5, -1, P) % P).to_bytes(32, "little"))
def is_signature(signature, message, public):  # section 5.1.7
    r, s = signature[:32], int.from_bytes(signature[32:], "little")
    k = int.from_bytes(hashlib.sha512(r + public + message).digest(), "little") % L
    x, y, z, _ = add(multiply(s, BASE), multiply(L - k, point(public)))
    x, y = x * pow(z, -1, P) % P, y * pow(z, -1, P) % P
    return len(signature) == 64 and s < L and (y | (x & 1) << 255).to_bytes(32, "little") == r

# ---- Keys and checkpoints: c2sp.org/signed-note, and c2sp.org/tlog-checkpoint without extension lines.
def unbase64(text):  # RFC 4648, section 4, and only in the form in which it would be encoded.
    data = base64.b64decode(text, validate=True)
    need(base64.b64encode(data).decode() == text, "it holds base64 that could be written otherwise")
    return data
def is_name(text): return text != "" and not any(c == "+" or c.isspace() or unicodedata.category(c) == "Cc" for c in text)
def parse_key(vkey):
    name, key_id, key = (vkey.split("+", 2) + ["", ""])[:3]
    own_id = sha256(name.encode() + b"\n" + (key := unbase64(key)))[:4]
    need(is_name(name) and len(key) == 33 and key[0] == 1 and key_id == own_id.hex(), "no key: it is NAME+HASH+KEY")
    return name, own_id, key[1:]
def parse_checkpoint(data, key):  # Size and root of what this key signed.
    text, _, signatures = data.decode().rpartition("\n\n")
    need(len(data) <= 2**20 and not re.search(b"[\0-\t\v-\x1f]", data) and signatures.endswith("\n"), "it is no signed note")
    text, fits = text + "\n", []
    for line in signatures[:-1].split("\n"):
        dash, name, blob = (line.split(" ", 2) + ["", ""])[:3]
        blob = unbase64(blob)
        need(dash == "\u2014" and is_name(name) and len(blob) >= 4, "a signature line is damaged")
        if (name, blob[:4]) == key[:2]:  # Others, such as witnesses, may sign as well.
            fits.append(is_signature(blob[4:], text.encode(), key[2]))
    need(fits and all(fits), "it is not signed by %s, or was changed" % key[0])
    match = re.fullmatch(r"([^\n]+)\n(0|[1-9][0-9]{0,19})\n(.{43}=)\n", text)
    need(match and match[1] == key[0] and int(match[2]) < 2**64, "it is no checkpoint of " + key[0])
    return int(match[2]), unbase64(match[3])

# ---- The tree: RFC 6962, section 2.1. A row: hashes of one height, of which only the last may stand over fewer leaves.
def root_of(row):
    while len(row) > 1:
        pairs = [sha256(b"\1" + row[n] + row[n + 1]) for n in range(0, len(row) - 1, 2)]
        row = pairs + row[len(pairs) * 2:]
    return row[0] if row else sha256(b"")
def root_over(rows):  # The rows at the right edge of a tree, from the leaves up.
    right = []
    for row in rows:
        right = [root_of(row + right)] if row or right else []
    return root_of(right)

# ---- Entries: JSON (RFC 8259), narrowed to what all readers read alike; fields of version 1, the first 8 always there.
TEXT, MAYBE, LIST = (str,), (str, type(None)), (list,)
FIELDS = {"v": (int,), "index": (int,), **dict.fromkeys("time request actor action resource outcome peer".split(), TEXT),
          **dict.fromkeys(["project", "level", "pack"], MAYBE), "reasons": LIST, "changes": LIST, "detail": ()}
def integer(text):
    need(len(text) <= 20 and text != "-0" and -(2**63) <= int(text) < 2**64, "a number is no integer of 64 bits")
    return int(text)
def once(pairs):
    need(len(dict(pairs)) == len(pairs), "it holds a name twice")
    return dict(pairs)
JSON = json.JSONDecoder(object_pairs_hook=once, parse_int=integer, parse_float=integer, parse_constant=integer)
def parse_entry(body, index):  # Time of an entry, which must say that it is this one; and those before which may be gone.
    if body.count(b"{") + body.count(b"[") > 127:
        turns = re.sub(rb'"(?:[^"\\]|\\.)*"|[^\[\]{}]', b"", body, flags=re.DOTALL)
        need(max(itertools.accumulate(1 if c in b"{[" else -1 for c in turns)) <= 127, "it is nested deeper than 127")
    entry = JSON.decode(body.decode())
    if b"\\u" in body:
        json.dumps(entry, ensure_ascii=False).encode()  # Fails where an escape is half a character.
    need(type(entry) is dict and all(name in entry for name in list(FIELDS)[:8]), "it lacks a field")
    for name, value in entry.items():
        need(name in FIELDS and (not FIELDS[name] or type(value) in FIELDS[name]), "a field is unknown or of another type")
    need(all(type(reason) is str for reason in entry.get("reasons", [])), "a reason is no text")
    time = re.fullmatch(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(\.\d{0,8}[1-9])?Z", entry["time"], re.ASCII)
    need(time and 1970 <= datetime.datetime(*map(int, time.groups()[:6])).year <= 9998, "its time is none")
    need(entry["v"] == 1 and entry["index"] == index, "it is of another version, or of another place")
    expires = entry["actor"] == "holmd" and entry["action"] == "log.expire" and entry["outcome"] != "refused"
    first = entry["detail"].get("first") if expires and type(entry.get("detail")) is dict else 0
    return entry["time"], first if type(first) is int and first <= index else 0

# ---- Files: c2sp.org/tlog-tiles. A tile's kind is "entries", or of its hashes the level.
def tile_path(kind, index, width):
    path = "%03d" % (index % 1000)
    while index := index // 1000:
        path = "x%03d/" % (index % 1000) + path
    return "tile/%s/%s" % (kind, path) + (".p/%d" % width if width < 256 else "")
def read(directory, path, limit):  # A plain file; of one that is longer than `limit` one byte more than that.
    with open(os.open(os.path.join(directory, path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        need(stat.S_ISREG(os.fstat(file.fileno()).st_mode), path + " is no plain file")
        return file.read(limit + 1)
def split(bundle):  # Each entry after its length, in 16 bits.
    bodies, at = [], 0
    while at < len(bundle):
        start, at = at + 2, at + 2 + int.from_bytes(bundle[at:at + 2], "big")
        need(start <= len(bundle) and at <= len(bundle), "a bundle does not end where an entry ends")
        bodies.append(bundle[start:at])
    return bodies
def walk(directory, below=""):
    for item in os.scandir(os.path.join(directory, below)):
        need(not item.is_symlink(), below + item.name + " is a link")  # By links one file is at any number of places.
        yield from walk(directory, below + item.name + "/") if item.is_dir() else [below + item.name]
def check_older(directory, path, size):  # Else a file must be an earlier partial tile, as a kill leaves it.
    match = re.fullmatch(r"tile/(entries|[0-7])/((?:x\d{3}/)*\d{3})(?:\.p/([1-9]\d{0,2}))?", path, re.ASCII)
    need(match, path + " is no part of the log")
    kind, index, width = match[1], int(re.sub("[x/]", "", match[2])), int(match[3] or 256)
    present = min(256, (size >> 8 * int(kind.replace("entries", "0"))) - 256 * index)
    need(path == tile_path(kind, index, width) and width <= present, path + " is no part of the log")
    if width < present:
        new, old = (read(directory, tile_path(kind, index, w), 256 * 65537) for w in (present, width))
        end = sum(2 + len(body) for body in split(new)[:width]) if kind == "entries" else 32 * width
        need(old == new[:end], path + " is older, and not the beginning of what is there now")

# ---- The whole is made anew from the entries, or the hashes of those that are gone, and every file compared with that.
def verify(directory, vkey, earlier=()):  # Size and root of the log, entries that are gone, first and last time of the others.
    key = parse_key(vkey)
    size, head = parse_checkpoint(read(directory, "checkpoint", 2**20), key)
    beside = [read(directory, path, 2**20) for path in walk(directory) if re.fullmatch("witness/[^/]+", path)]
    known = [parse_checkpoint(note, key) for note in [*earlier, *beside]] + [(size, head)]
    need(max(known)[0] == size, "it has %d entries, and had more already" % size)
    rows, gone, may_be_gone, first, last = [[] for _ in range(9)], 0, 0, "", ""
    def compare(level, index, row):
        path = tile_path(level, index, len(row))
        need(read(directory, path, 8192) == b"".join(row), path + " does not hold the hashes that it must hold")
    for start in range(0, size, 256):
        bundle = tile_path("entries", start // 256, min(256, size - start))
        if gone == start <= size - 256 and not os.path.lexists(os.path.join(directory, bundle)):
            tile, gone = read(directory, tile_path(0, start // 256, 256), 8192), start + 256
            rows[0] = [tile[n:n + 32] for n in range(0, 8192, 32)]
        else:
            bodies = split(read(directory, bundle, 256 * 65537))
            need(len(bodies) == min(256, size - start), bundle + " does not hold as many entries as it must")
            times, firsts = zip(*[parse_entry(body, start + n) for n, body in enumerate(bodies)])
            first, last, may_be_gone = first or times[0], times[-1], max(may_be_gone, *firsts)
            rows[0] = [sha256(b"\0" + body) for body in bodies]
        for n, root in known:
            if 0 < n - start <= 256:
                need(root_over([rows[0][:n - start]] + rows[1:]) == root, "the %d first entries are others" % n)
        for level in itertools.takewhile(lambda level: len(rows[level]) == 256, range(8)):
            compare(level, (start + 256 >> 8 * (level + 1)) - 1, rows[level])
            rows[level + 1].append(root_of(rows[level]))
            rows[level] = []
    need(all(root == root_of([]) for n, root in known if n == 0), "the root of no entries is another")
    for level in filter(rows.__getitem__, range(9)):
        compare(level, size >> 8 * (level + 1), rows[level])
    need(gone <= may_be_gone, "the first %d entries are missing, and no entry of holmd's says that they may be" % gone)
    for path in walk(directory):
        if path == "vkey":
            need(read(directory, path, 2**20) == vkey.encode() + b"\n", "its vkey is another key")
        elif path != "checkpoint" and not re.fullmatch("witness/[^/]+", path):
            check_older(directory, path, size)
    return size, head, gone, first, last

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ["dir", "key"]:
        parser.add_argument(name, metavar=name.upper())
    parser.add_argument("--earlier", metavar="FILE", action="append", default=[])
    asked = parser.parse_args()
    try:
        key = (read("", asked.key, 2**20).decode() if os.path.isfile(asked.key) else asked.key).strip()
        name, earlier = parse_key(key)[0], [read("", path, 2**20) for path in asked.earlier]
    except (ValueError, OSError) as wrong: parser.error(str(wrong))
    try:
        size, root, gone, first, last = verify(asked.dir, key, earlier)
    except (ValueError, OSError) as wrong: sys.exit("%s is NOT the log that was signed: %s" % (asked.dir, wrong))
    rows = [("entries", size), ("gone", gone), ("root", root.hex()), ("first", first), ("last", last)]
    print("\n".join("%-8s %s" % row for row in [("verified", name), *rows]))
if __name__ == "__main__": main()
