#!/usr/bin/env python3
"""Draw the samples of a log of Holm again, of a copy of its directory or an export: `draw-sample.py DIR`, Python 3.9.

First let verify-log.py, beside this, say that it is the log that was signed: this believes the entries. What a sample is,
audit-log.md says. Exit code 0: every sample that the log has follows from it. 1: one does not. Nothing is said of a sample
whose period began with entries that are gone."""
import hashlib, json, os, sys

ACCESSES = """guest.login guest.sudo guest.transfer keys.escrow project.add-member slice.backup slice.connect slice.drill
slice.recordings slice.restore slice.start""".split()
def sha256(data):
    return hashlib.sha256(data).digest()
def merge(stack):  # RFC 6962, section 2.1: subtrees from left to right, each a height and its hash.
    while len(stack) > 1 and stack[-1][0] == stack[-2][0]:
        (height, right), (_, left) = stack.pop(), stack.pop()
        stack.append((height + 1, sha256(b"\1" + left + right)))
def root(stack):
    over = stack[-1][1]
    for _, left in reversed(stack[:-1]):
        over = sha256(b"\1" + left + over)
    return over
def entries(directory):  # Each with its hash; of those that are gone, at the front, the hash alone.
    with open(os.path.join(directory, "checkpoint")) as file:
        size = int(file.read().split("\n")[1])
    gone = 0
    for start in range(0, size, 256):
        digits = "%03d" % (start // 256 % 1000)
        above = start // 256
        while above := above // 1000:
            digits = "x%03d/" % (above % 1000) + digits
        part = ".p/%d" % (size - start) if size - start < 256 else ""
        path = os.path.join(directory, "tile/entries", digits + part)
        if gone == start <= size - 256 and not os.path.lexists(path):
            gone = start + 256
            with open(os.path.join(directory, "tile/0", digits), "rb") as file:
                yield from ((file.read(32), None) for _ in range(256))
            continue
        with open(path, "rb") as file:
            bundle = file.read()
        while bundle:
            end = 2 + int.from_bytes(bundle[:2], "big")
            yield sha256(b"\0" + bundle[2:end]), bundle[2:end]
            bundle = bundle[end:]

accesses, closed, expected, stack, bad = [], 0, {}, [], False
lacks, last, drawn = False, 0, set()  # The period that goes on began with what is gone; the last that did; samples of such.
for index, (leaf, body) in enumerate(entries(sys.argv[1])):
    stack.append((0, leaf))
    merge(stack)
    if body is None:
        lacks = True
        continue
    entry = json.loads(body)
    detail, action = entry.get("detail"), entry["action"]
    own = entry["actor"] == "holmd" and entry["outcome"] != "refused"
    fields = detail if isinstance(detail, dict) else {}
    number = fields.get("review") if type(fields.get("review")) is int else 0
    if own and lacks and action == "review.close" and type(fields.get("entries")) is int:
        accesses, closed, last, lacks = [], number, number, False
    elif own and action == "review.draw" and number > 0 and (lacks or number <= last and number not in drawn):
        drawn.update([] if lacks else [number])
    elif own and action == "review.close" and number == closed + 1 and type(fields.get("entries")) is int:
        seed = sha256(b"holm sample %d\n" % number + root(stack))
        lowest = sorted(accesses, key=lambda one: sha256(seed + one.to_bytes(8, "big")))[:fields["entries"]]
        expected[number], accesses, closed = (index, sorted(lowest)), [], number
    elif own and action in ("review.close", "review.draw"):
        sample = fields.get("sample", [])
        good = action == "review.draw" and expected.pop(number, None) == (fields.get("close"), sample)
        bad = bad or not good
        print("sample %d: %d entries, %s from the log" % (number, len(sample), "follows" if good else "DOES NOT FOLLOW"))
    elif action in ACCESSES and "dry_run" not in fields:
        accesses.append(index)
sys.exit(bad)
