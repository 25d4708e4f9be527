"""A Cisco Meeting Server's MMP over real SSH on loopback, that behaves well or badly as told.

    with MMP(restart=[SUCCESS, status(0), reset]) as mmp:
        ...  # connect to mmp.address; see mmp.commands, mmp.passwords and mmp.connections

It is made of asyncssh, another make than the client, so it sees what two ends made of paramiko
would agree on. It hangs up on all that comes before the login or out of its order, and on a second
request for the login service if it is strict. The steps of its answers are in steps.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncssh
from asyncssh.packet import UInt32

from conftest import PASSWORD
from steps import SETTINGS, Action, Raw, answer, take

PATIENCE = 20.0  # seconds that a test waits for what must come
SERVICE_REQUEST, CHANNEL_SUCCESS = 5, 99  # the numbers of SSH's messages

for _name in ("asyncio", "asyncssh"):  # which tell of clients that hang up
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)


@functools.cache
def key(name: str = "ssh-ed25519") -> asyncssh.SSHKey:
    """Return the key of this name, as "ssh-rsa" or "ssh-rsa 2"; RSA is slow to generate."""
    return asyncssh.generate_private_key(name.split()[0])


def public(host_key: asyncssh.SSHKey) -> str:
    """Return the host key as it stands in a known-hosts file: its type and its text."""
    return " ".join(host_key.export_public_key().decode().split()[:2])


@dataclass
class MMP:
    """One server. Every setting may be changed until a client connects."""

    restart: Action = field(default_factory=answer)
    # To exec: "first", before the action; "last", after it, as Conch does; "never"; or "refused"
    reply: str = "first"
    password: str = PASSWORD
    methods: Collection[str] = ("password",)  # or "keyboard-interactive"
    strict: bool = True  # takes one request for the login service, as Go does; OpenSSH takes more
    questions: Sequence[Sequence[str]] = (("Password: ",),)  # several rounds of several
    login: Action = ()  # before the reply to the right password
    session: Action = ()  # before the reply to the request for a session
    log: Any = b""  # what SFTP serves as "log", or the error that it raises; None: no SFTP
    log_size: int | None = -1  # what SFTP says that it has; -1: its real size, None: nothing
    log_read: Action = ()  # before each piece of it
    host_keys: Sequence[str] = ()  # names for key(); without one, a new key
    lacks: Collection[bytes] = (b"ssh-rsa",)  # names of signatures, as the servers of today
    bad_signature: bool = False  # of its host key
    options: Mapping[str, Any] = field(default_factory=dict)  # more of them, for asyncssh
    raw: Raw | None = None  # instead of SSH
    host: str = "127.0.0.1"  # at which it is found; it listens on IPv4

    # What came, which tests look at
    connections: int = field(default=0, init=False)
    commands: list[str] = field(default_factory=list, init=False)
    passwords: list[str] = field(default_factory=list, init=False)  # None are read if not accepted
    messages: list[int] = field(default_factory=list, init=False)  # their numbers
    read_at: dict[int, int] = field(default_factory=dict, init=False)  # over SFTP: offset, length
    open: list[asyncssh.SSHServerConnection] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.sockets: list[socket.socket] = []
        self.listener = socket.create_server((self.host, 0), backlog=100)
        self.listener.setblocking(False)
        self.port = self.listener.getsockname()[1]
        self.address = f"{self.host}:{self.port}"
        new = [] if self.host_keys else [asyncssh.generate_private_key("ssh-ed25519")]
        self.keys = new + [key(name) for name in self.host_keys]

    @property
    def bytes_read(self) -> int:
        """How much of the log was read; paramiko may ask for a part of it twice."""
        return sum(self.read_at.values())

    @property
    def known_hosts_line(self) -> str:
        return f"[{self.host}]:{self.port} {public(self.keys[0])}"

    def __enter__(self) -> MMP:
        # The loop that Linux has, so that the server is the same on Windows
        self.loop = asyncio.SelectorEventLoop()
        self.loop.set_exception_handler(lambda *_: None)  # of clients that hang up
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        asyncio.run_coroutine_threadsafe(self._serve(), self.loop)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self.loop).result(PATIENCE)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(PATIENCE)
        self.loop.close()
        for each in (self.listener, *self.sockets):
            each.close()

    async def _stop(self) -> None:
        for connection in list(self.open):
            connection.abort()
        for each in self.sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)  # which wakes the thread that reads from it
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self) -> None:
        while True:
            client, _ = await self.loop.sock_accept(self.listener)
            self.sockets.append(client)
            self.connections += 1
            if self.raw:
                threading.Thread(target=self._speak, args=(self.raw, client), daemon=True).start()
            else:
                self.loop.create_task(self._attend(client))

    def _speak(self, raw: Raw, client: socket.socket) -> None:
        client.setblocking(True)
        with client, contextlib.suppress(OSError):
            raw(client)

    async def _attend(self, client: socket.socket) -> None:
        pairs = asyncssh.load_keypairs(self.keys)
        for pair in pairs:
            kinds = pair.host_key_algorithms
            pair.host_key_algorithms = [kind for kind in kinds if kind not in self.lacks]
            if self.bad_signature:
                pair.sign = lambda data, sign=pair.sign: sign(b"another text: " + data)
        with contextlib.suppress(asyncssh.Error, OSError):
            await asyncssh.run_server(
                client,
                server_factory=lambda: _Connection(self, client),
                server_host_keys=pairs,
                encoding=None,
                gss_host=None,
                **self.options,
            )


class _Connection(asyncssh.SSHServer):
    """One connection, as asyncssh asks about it."""

    def __init__(self, mmp: MMP, client: socket.socket) -> None:
        self.mmp, self.socket = mmp, client
        self.rounds = list(mmp.questions)
        self.right = True

    def connection_made(self, conn: Any) -> None:
        self.connection = conn
        self.mmp.open.append(conn)
        finish = conn._finish_recv_packet  # at every packet; asyncssh has no public call for it

        def note_and_finish(kind: int, *others: Any, **named: Any) -> None:
            self.mmp.messages.append(kind)
            if kind == SERVICE_REQUEST and not self.mmp.strict:
                conn._next_service = b"ssh-userauth"
            finish(kind, *others, **named)

        conn._finish_recv_packet = note_and_finish

    def connection_lost(self, _: object) -> None:
        self.mmp.open.remove(self.connection)

    def password_auth_supported(self) -> bool:
        return "password" in self.mmp.methods

    def kbdint_auth_supported(self) -> bool:
        return "keyboard-interactive" in self.mmp.methods

    async def validate_password(self, username: str, password: str) -> bool:
        self.mmp.passwords.append(password)
        right = password == self.mmp.password
        if right:
            await take(self.mmp.login, self)
        return right

    def get_kbdint_challenge(self, *_: str) -> Any:
        return "", "", "", [(question, False) for question in self.rounds.pop(0)]

    def validate_kbdint_response(self, username: str, responses: Sequence[str]) -> Any:
        self.mmp.passwords.extend(responses)
        self.right = self.right and all(text == self.mmp.password for text in responses)
        return self.get_kbdint_challenge() if self.rounds else self.right

    async def session_requested(self) -> Any:  # type: ignore[override]
        await take(self.mmp.session, self)
        return _Session(self)


class _Session(asyncssh.SSHServerProcess[bytes]):
    """One channel: a command, or SFTP."""

    def __init__(self, of: _Connection) -> None:
        self.mmp, self.connection, self.socket = of.mmp, of.connection, of.socket
        files = None if self.mmp.log is None else functools.partial(_Files, of)
        super().__init__(lambda _: None, files, 3, False)  # as _act() needs no call

    def shell_requested(self) -> bool:
        return False

    def exec_requested(self, command: str) -> Any:
        """Return None, so that asyncssh leaves the reply to _act()."""
        self.mmp.commands.append(command)
        self.channel.set_write_buffer_limits(0)
        self.channel.resume_reading()
        self.connection.create_task(self._act(command))

    async def _act(self, command: str) -> None:
        """Do what the command does, and reply to the request for it, in the order of the setting.

        asyncssh itself always replies, first, and never on a channel that it has closed.
        """
        channel: Any = self.channel
        number = channel._send_chan
        action = self.mmp.restart if command == "webbridge restart" else answer(SETTINGS)
        if self.mmp.reply in ("first", "refused"):
            channel._report_response(self.mmp.reply == "first")
        with contextlib.suppress(OSError, asyncssh.Error):
            await take(action, self)
        if self.mmp.reply == "last":
            self.connection.send_packet(CHANNEL_SUCCESS, UInt32(number))

    def eof_received(self) -> bool:
        return True  # our side stays open


class _Files(asyncssh.SFTPServer):
    """The MMP's files, of which there is one, called log."""

    def __init__(self, of: _Connection, channel: Any) -> None:
        super().__init__(channel)
        self.mmp, self.socket = of.mmp, of.socket

    def open(self, path: bytes, pflags: int, attrs: object) -> object:
        if isinstance(self.mmp.log, Exception):
            raise self.mmp.log
        if path not in (b"log", b"/log"):
            raise asyncssh.SFTPNoSuchFile("No such file")
        return path

    def fstat(self, file_obj: object) -> asyncssh.SFTPAttrs:
        size = len(self.mmp.log) if self.mmp.log_size == -1 else self.mmp.log_size
        return asyncssh.SFTPAttrs(size=size)

    async def read(self, file_obj: object, offset: int, size: int) -> bytes:
        await take(self.mmp.log_read, self)
        data = bytes(self.mmp.log[offset : offset + size])
        self.mmp.read_at[offset] = len(data)
        return data

    def close(self, file_obj: object) -> None:
        """There is nothing to close."""
