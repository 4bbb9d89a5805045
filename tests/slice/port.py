"""The host's end of the guest's port: port.py SOCKET ready (until it is) | stop"""

import socket
import sys
import time

port = socket.socket(socket.AF_UNIX)
while True:
    try:
        port.connect(sys.argv[1])
        break
    except (FileNotFoundError, ConnectionRefusedError):
        time.sleep(0.05)
port.sendall(b"stop\n" if sys.argv[2] == "stop" else b"status\n")
for line in port.makefile("rb"):
    if sys.argv[2] == "ready":
        if b'"failed"' in line:
            sys.exit(line.decode())
        if b'"ready"' in line:
            print(line.decode().strip())
            break
