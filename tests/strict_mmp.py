"""A second MMP on loopback, of another make: asyncssh, which forgives a client nothing.

    with StrictMMP() as mmp:
        ...  # connect to mmp.address; see mmp.commands, mmp.passwords and mmp.connections

A server made of paramiko cannot see what paramiko itself gets wrong. This one hangs up on a second
request for the login service, and on all that comes before the login or out of its order.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncssh

from simulated_mmp import PASSWORD, SETTINGS, SUCCESS

Process = asyncssh.SSHServerProcess[bytes]
Action = Callable[[Process], Awaitable[None]]

logging.getLogger("asyncssh").setLevel(logging.CRITICAL + 1)  # of clients that hang up


@functools.cache
def key(kind: str, number: int = 1) -> asyncssh.SSHKey:
    """Return a key of the kind "ssh-ed25519", "ecdsa-sha2-nistp256" or "ssh-rsa".

    It is the same one for the same kind and number, as one is slow to generate.
    """
    return asyncssh.generate_private_key(kind)


# ---- What a command does -------------------------------------------------------------------------


def _end(process: Process, status: int | None) -> None:
    """Send the exit status, if there is one, and close the channel."""
    if status is None:
        process.close()
    else:
        process.exit(status)


def answer(text: bytes = SUCCESS, status: int | None = 0) -> Action:
    """The text, then the exit status if there is one, then the channel's close."""
    return answer_in_pieces([text], 0, status)


def answer_in_pieces(pieces: Sequence[bytes], seconds: float, status: int | None = 0) -> Action:
    """As answer(), but the text comes in pieces, so many seconds apart."""

    async def act(process: Process) -> None:
        for number, piece in enumerate(pieces):
            await asyncio.sleep(seconds if number else 0)
            process.stdout.write(piece)
        _end(process, status)

    return act


def answer_then_wait_for_end_of_file(text: bytes = SUCCESS, status: int | None = 0) -> Action:
    """As a shell whose first line was the command: it stays until its input ends."""

    async def act(process: Process) -> None:
        process.stdout.write(text)
        await process.stdin.read()
        _end(process, status)

    return act


def answer_then_stay(text: bytes = SUCCESS) -> Action:
    """The text, and nothing after it: no status, no close, whatever the client sends."""

    async def act(process: Process) -> None:
        process.stdout.write(text)

    return act


def answer_then_end_of_file(text: bytes = SUCCESS) -> Action:
    """The text and its end of file, but no status, and no close."""

    async def act(process: Process) -> None:
        process.stdout.write(text)
        process.stdout.write_eof()

    return act


def answer_then_hang_up(text: bytes = SUCCESS, seconds: float = 0.1) -> Action:
    """The text, and then the connection is gone."""

    async def act(process: Process) -> None:
        process.stdout.write(text)
        await asyncio.sleep(seconds)
        process.channel.get_connection().abort()

    return act


# ---- The server ----------------------------------------------------------------------------------


@dataclass
class StrictMMP:
    """One server. What it does with a connection may be changed while it runs."""

    restart: Action = field(default_factory=answer)
    webbridge: Action = field(default_factory=lambda: answer(SETTINGS))
    password: str = PASSWORD
    methods: str = "password"  # or "keyboard-interactive", "publickey", or several with commas
    questions: list[list[str]] = field(default_factory=lambda: [["Password: "]])
    second_factor: str = ""  # the method that it wants after the right password
    seconds_for_password: float = 0  # until it has checked one
    refuse_channels: bool = False
    refuse_exec: bool = False
    log: bytes | None = b""  # what SFTP serves as "log"; None: there is no SFTP
    log_size: int | None = -1  # what stat says; -1: its real size, None: nothing
    log_drops_at: int | None = None  # a read that reaches this byte ends the connection
    host_keys: Sequence[asyncssh.SSHKey] = field(default_factory=lambda: [key("ssh-ed25519")])
    options: dict[str, Any] = field(default_factory=dict)  # more of them, for asyncssh.listen()

    def __post_init__(self) -> None:
        self.commands: list[str] = []
        self.passwords: list[str] = []  # asyncssh reads none where it takes none
        self.connections = 0
        self.reads = 0  # requests over SFTP
        self.open: list[asyncssh.SSHServerConnection] = []
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port: int = self.listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"

    def __enter__(self) -> StrictMMP:
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(lambda *_: None)  # of clients that hang up
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self._wait(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._wait(self._stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(20)
        self.loop.close()

    @property
    def host_key(self) -> asyncssh.SSHKey:
        return self.host_keys[0]

    @property
    def known_hosts_line(self) -> str:
        return self.known_hosts_line_of(self.host_key)

    def known_hosts_line_of(self, host_key: asyncssh.SSHKey) -> str:
        kind, base64 = host_key.export_public_key().decode().split()[:2]
        return f"[127.0.0.1]:{self.port} {kind} {base64}"

    def _wait(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    async def _listen(self) -> None:
        pairs = asyncssh.load_keypairs(list(self.host_keys))
        for pair in pairs:  # an RSA key signs no SHA-1, as with the servers of today
            kinds = pair.host_key_algorithms
            pair.host_key_algorithms = [kind for kind in kinds if kind != b"ssh-rsa"]
        self.acceptor = await asyncssh.listen(
            sock=self.listener,
            server_factory=lambda: _Connection(self),
            server_host_keys=pairs,
            encoding=None,
            gss_host=None,
            **self.options,
        )

    async def _stop(self) -> None:
        self.acceptor.close()
        for connection in self.open:
            connection.abort()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.loop.shutdown_default_executor()


class _Connection(asyncssh.SSHServer):
    """One connection, as asyncssh asks about it."""

    def __init__(self, mmp: StrictMMP) -> None:
        self.mmp = mmp
        self.methods = mmp.methods.split(",")
        self.rounds = list(mmp.questions)
        self.right = True

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self.connection = conn
        self.mmp.connections += 1
        self.mmp.open.append(conn)

    def password_auth_supported(self) -> bool:
        return "password" in self.methods

    def kbdint_auth_supported(self) -> bool:
        return "keyboard-interactive" in self.methods

    def public_key_auth_supported(self) -> bool:
        return "publickey" in self.methods

    async def validate_password(self, username: str, password: str) -> bool:
        self.mmp.passwords.append(password)
        await asyncio.sleep(self.mmp.seconds_for_password)
        right = password == self.mmp.password
        if right and self.mmp.second_factor:
            self.methods = [self.mmp.second_factor]
            self.connection.send_userauth_failure(True)  # with what is still wanted
            raise asyncio.CancelledError  # or asyncssh would reply as well
        return right

    def get_kbdint_challenge(self, *_: str) -> Any:
        return "", "", "", [(question, False) for question in self.rounds.pop(0)]

    def validate_kbdint_response(self, username: str, responses: Sequence[str]) -> Any:
        self.mmp.passwords.extend(responses)
        self.right = self.right and all(text == self.mmp.password for text in responses)
        return self.get_kbdint_challenge() if self.rounds else self.right

    def session_requested(self) -> Any:
        return not self.mmp.refuse_channels and _Session(self.mmp)


class _Session(asyncssh.SSHServerProcess[bytes]):
    """One channel: a command, or SFTP."""

    def __init__(self, mmp: StrictMMP) -> None:
        super().__init__(self._act, None if mmp.log is None else self._files, 3, False)
        self.mmp = mmp

    def _files(self, channel: Any) -> asyncssh.SFTPServer:
        return _Files(self.mmp, channel)

    def shell_requested(self) -> bool:
        return False

    def exec_requested(self, command: str) -> bool:
        self.mmp.commands.append(command)
        return not self.mmp.refuse_exec

    async def _act(self, process: Process) -> None:
        unknown = answer(f"Unknown command: {process.command}\n".encode(), 1)
        action = {"webbridge restart": self.mmp.restart, "webbridge": self.mmp.webbridge}
        await action.get(process.command or "", unknown)(process)


class _Files(asyncssh.SFTPServer):
    """The MMP's files, of which there is one, called log."""

    def __init__(self, mmp: StrictMMP, channel: Any) -> None:
        super().__init__(channel)
        self.mmp = mmp

    def _find(self, path: bytes) -> bytes:
        if path not in (b"log", b"/log"):
            raise asyncssh.SFTPNoSuchFile("No such file")
        return path

    def _attributes(self) -> asyncssh.SFTPAttrs:
        real = len(self.mmp.log or b"")
        return asyncssh.SFTPAttrs(size=real if self.mmp.log_size == -1 else self.mmp.log_size)

    def open(self, path: bytes, pflags: int, attrs: object) -> object:
        return self._find(path)

    def stat(self, path: bytes) -> asyncssh.SFTPAttrs:
        self._find(path)
        return self._attributes()

    def fstat(self, file_obj: object) -> asyncssh.SFTPAttrs:
        return self._attributes()

    def read(self, file_obj: object, offset: int, size: int) -> bytes:
        self.mmp.reads += 1
        if self.mmp.log_drops_at is not None and offset + size > self.mmp.log_drops_at:
            self.connection.abort()
        return (self.mmp.log or b"")[offset : offset + size]

    def close(self, file_obj: object) -> None:
        """There is nothing to close."""
