"""To the guest's SSH server, over vsock: way-in.py SOCKET of vhost-device-vsock, or CID of the system's own"""

import os
import socket
import sys
import threading

if sys.argv[1].isdigit():
    way = socket.socket(socket.AF_VSOCK)
    way.connect((int(sys.argv[1]), 22))
else:
    way = socket.socket(socket.AF_UNIX)
    way.connect(sys.argv[1])
    way.sendall(b"CONNECT 22\n")
    answer = b""
    while not answer.endswith(b"\n"):
        byte = way.recv(1)
        if not byte:
            sys.exit("nobody answers")
        answer += byte


def there():
    while said := os.read(0, 65536):
        way.sendall(said)
    way.shutdown(socket.SHUT_WR)


threading.Thread(target=there, daemon=True).start()
while heard := way.recv(65536):
    os.write(1, heard)
