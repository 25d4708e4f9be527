"""What a simulated MMP (mmp.py) does: steps of an answer or a login; and servers without SSH."""

from __future__ import annotations

import asyncio
import inspect
import os
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any, Union

import asyncssh
from asyncssh.packet import Boolean, Byte, NameList, String, UInt32

from conftest import CISCO

SUCCESS = CISCO.encode()
SETTINGS = b"Enabled                 : true\nInterface whitelist     : a:443\n"
LINES = b"One of very many lines that a server can send.\n" * 1330  # 62,510 bytes
FOREVER = 1e6  # seconds


# ---- What a command does, and what comes before the reply to a login -----------------------------

# Text to send, seconds to wait, or a call, which may be awaited. It gets the session, or during the
# login the connection, as they stand below.
Step = Union[bytes, float, Callable[[Any], Any]]
Action = Sequence[Step]


def answer(text: bytes = SUCCESS) -> Action:
    """The text, each line by itself, then exit status 0, then the close."""
    return (*text.splitlines(keepends=True), status(0), close)


async def take(steps: Action, here: Any) -> None:
    for step in steps:
        if isinstance(step, bytes):
            here.channel.write(step)
            await here.drain(None)
        elif isinstance(step, (int, float)):
            await asyncio.sleep(step)
        else:
            result = step(here)
            if inspect.isawaitable(result):
                await result


def status(code: int) -> Step:
    """The exit status alone; asyncssh's own exit() closes the channel as well."""
    return lambda here: here.channel._send_request(b"exit-status", UInt32(code))


def close(here: Any) -> None:
    here.channel.close()


def end_of_file(here: Any) -> None:
    here.channel.write_eof()


def behind_the_end(text: bytes) -> Step:
    """More text, which asyncssh itself does not send after the end of file."""
    return lambda here: here.channel.send_packet(94, String(text))


def errors(text: bytes) -> Step:
    return lambda here: here.channel.write_stderr(text)


def dribble(text: bytes = b"\n", seconds: float = 0.05) -> Step:
    """The text again and again, for ever."""

    async def step(here: Any) -> None:
        while True:  # until the channel is closed, which raises OSError
            await take([text, seconds], here)

    return step


async def wait_until_received(here: Any) -> None:
    """Wait until the client has read all that was sent; it replies in order.

    asyncssh has no public request with a reply that the client need not know.
    """
    await here.connection._make_global_request(b"are-you-there@example.test")


def hang_up(here: Any) -> None:
    here.socket.shutdown(socket.SHUT_WR)  # with a FIN, after all that was sent


def goodbye(here: Any) -> None:
    """SSH_MSG_DISCONNECT, and a FIN; asyncssh's own disconnect() closes the channels before it."""
    here.connection._send_disconnect(asyncssh.DISC_BY_APPLICATION, "Goodbye", "en")
    hang_up(here)


def reset(here: Any) -> None:
    end_with_reset(here.socket)
    here.connection.abort()


def greet(text: bytes) -> Step:
    """A banner, which comes before the end of the login."""
    return lambda here: here.connection.send_packet(53, String(text), String(b""))


def refuse(*methods: bytes, in_part: bool = False) -> Step:
    """Refuse the login, or the first factor of it, and name what is accepted."""

    def step(here: Any) -> None:
        here.connection.send_packet(51, NameList(methods), Boolean(in_part))
        raise asyncio.CancelledError  # or asyncssh would reply as well

    return step


async def refuse_beside_another(here: Any) -> None:
    """Refuse the login if another connection is open, as a limit of sessions of an account does."""
    if len(here.mmp.open) > 1:
        await take([refuse()], here)


def ask_for_new_password(here: Any) -> None:
    raise asyncssh.PasswordChangeRequired("Your password has expired. New password: ")


def refuse_session(here: Any) -> None:
    raise asyncssh.ChannelOpenError(asyncssh.OPEN_RESOURCE_SHORTAGE, "Too many sessions")


# ---- Servers that speak no SSH, or not much ------------------------------------------------------

Raw = Callable[[socket.socket], None]  # runs in a thread of its own


def says(text: bytes = b"", end: Raw | None = None) -> Raw:
    """The text, and then silence until the client hangs up, or an end."""

    def speak(connection: socket.socket) -> None:
        connection.sendall(text)
        if end:
            connection.recv(65536)  # the client's banner: now nothing can fail earlier
            end(connection)
        while connection.recv(65536):
            pass

    return speak


def disconnect(text: bytes) -> bytes:
    """Return SSH_MSG_DISCONNECT as it is sent before the key exchange."""
    message = Byte(1) + UInt32(11) + String(text) + String(b"")
    padding = 11 - len(message) % 8
    return UInt32(1 + len(message) + padding) + Byte(padding) + message + bytes(padding)


def ends(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_WR)


def end_with_reset(connection: socket.socket) -> None:
    """Let the end of a TCP connection be a reset instead of a goodbye."""
    linger = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


def resets(connection: socket.socket) -> None:
    end_with_reset(connection)
    connection.close()
