"""A mail server for tests: aiosmtpd, told on standard input how to behave; says on standard output what came."""

import argparse
import asyncio
import email
import email.policy
import json
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult

options = argparse.ArgumentParser()
options.add_argument("--port", type=int, default=0)
options.add_argument("--certificate")
options.add_argument("--key")
options.add_argument("--tls", choices=["starttls", "implicit", "none"], default="starttls")
options.add_argument("--password")
options = options.parse_args()

# Replies to RCPT or DATA, by address: [where, reply, how often].
rules = {}
hold = asyncio.Event()
hold.set()


def say(what):
    print(json.dumps(what), flush=True)


def rule(where, address):
    found = rules.get(address)
    if not found or found[0] != where or found[2] == 0:
        return None
    found[2] -= 1
    say({"refused": address, "reply": found[1]})
    return found[1]


class Handler:
    async def handle_RCPT(self, server, session, envelope, address, rcpt_options):
        refused = rule("rcpt", address)
        if not refused:
            envelope.rcpt_tos.append(address)
        return refused or "250 OK"

    async def handle_DATA(self, server, session, envelope):
        refused = rule("data", envelope.rcpt_tos[0])
        if refused:
            return refused
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        say({
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "headers": {name.lower(): str(value) for name, value in message.items()},
            "body": message.get_body(("plain",)).get_content(),
            "files": {part.get_filename(): part.get_content() for part in message.iter_attachments()},
            "tls": session.ssl is not None,
            "login": session.auth_data,
        })
        await hold.wait()
        return "250 taken"


def login(server, session, envelope, mechanism, data):
    good = data.login == b"holm" and data.password.decode() == options.password
    if not good:
        say({"refused": "login"})
    return AuthResult(success=good, handled=False, auth_data=data.login.decode())


async def commands():
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        command = json.loads(line)
        rules.update(command.get("rules", {}))
        if "hold" in command:
            (hold.clear if command["hold"] else hold.set)()
        say({"done": True})


async def main():
    context = None
    if options.tls != "none":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.certificate, options.key)
    starttls = options.tls == "starttls"
    what = {"hostname": "localhost"}
    if starttls:
        what.update(tls_context=context, require_starttls=True)
    if options.password:
        what.update(authenticator=login, auth_required=True, auth_require_tls=starttls)
    server = await asyncio.get_running_loop().create_server(
        lambda: SMTP(Handler(), **what), host="127.0.0.1", port=options.port, ssl=None if starttls else context
    )
    say({"port": server.sockets[0].getsockname()[1]})
    await commands()


asyncio.run(main())
