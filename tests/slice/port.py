"""The host's end of the guest's port.

port.py SOCKET ready                    until it is
port.py SOCKET stop                     says so, and nothing else
port.py SOCKET until PATTERN [LINE…]    says the lines, or `status`, and prints the first line of an answer that the regular
                                        expression PATTERN is found in
"""

import re
import socket
import sys
import time

path, what, *rest = sys.argv[1:]
lines, pattern = ["stop" if what == "stop" else "status"], '"ready"'
if what == "until":
    pattern, lines = rest[0], rest[1:] or lines
port = socket.socket(socket.AF_UNIX)
while True:
    try:
        port.connect(path)
        break
    except (FileNotFoundError, ConnectionRefusedError):
        time.sleep(0.05)
port.sendall("".join(line + "\n" for line in lines).encode())
for line in port.makefile("rb"):
    line = line.decode().strip()
    if what == "ready" and '"failed"' in line:
        sys.exit(line)
    if what != "stop" and re.search(pattern, line):
        print(line)
        break
