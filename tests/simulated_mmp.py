"""A Cisco Meeting Server's MMP over real SSH on loopback, that behaves well or badly as told.

    with SimulatedMMP() as mmp:
        ...  # connect to mmp.address; see mmp.commands, mmp.passwords and mmp.connections

It listens on a port that the system chooses, and is gone at the end of the block. As the
strictest servers do, it hangs up on a second request for the login service, and on anything before
the login that belongs after it.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import paramiko
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

PASSWORD = "correct horse"
SUCCESS = b"SUCCESS: Webbridge restarted\n"
SETTINGS = b"Enabled                 : true\nInterface whitelist     : a:443\n"
Action = Callable[["paramiko.Channel"], None]
SERVICE_REQUEST, CHANNEL_SUCCESS = 5, 99  # the numbers of SSH's messages
AFTER_LOGIN = 80  # it, and all above it, belong after the login


def ed25519_key() -> paramiko.PKey:
    pem = ed25519.Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()
    )
    return paramiko.Ed25519Key(file_obj=io.StringIO(pem.decode()))


def ecdsa_key() -> paramiko.PKey:
    return paramiko.ECDSAKey.generate(ec.SECP256R1())


@functools.cache
def rsa_key(number: int = 1) -> paramiko.PKey:
    """Return the same key for the same number, as one is slow to generate."""
    pem = rsa.generate_private_key(65537, 2048).private_bytes(
        Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
    )
    return paramiko.RSAKey(file_obj=io.StringIO(pem.decode()))


def answer(text: bytes = SUCCESS, status: int | None = 0) -> Action:
    """Return what a command does: it sends the text, then the exit status if there is one."""

    def act(channel: paramiko.Channel) -> None:
        channel.sendall(text)
        if status is not None:
            channel.send_exit_status(status)
        channel.close()

    return act


@contextlib.contextmanager
def refusing_address() -> Iterator[str]:
    """Hold a port at which nobody listens, so that nobody else can either."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


def reset(connection: socket.socket) -> None:
    """End a TCP connection with a reset instead of a goodbye."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@dataclass
class SimulatedMMP:
    """One server. Every setting may be changed while it runs, and holds for what comes after."""

    restart: Action = field(default_factory=answer)
    webbridge: Action = field(default_factory=lambda: answer(SETTINGS))
    password: str = PASSWORD
    methods: str = "password"  # or "keyboard-interactive", "publickey", or several with commas
    questions: list[list[str]] = field(default_factory=lambda: [["Password: "]])
    echo: bool = False  # whether the answers to the questions may be shown while they are typed
    host_key: paramiko.PKey = field(default_factory=ed25519_key)
    stall: str = ""  # the stage where it falls silent: "login", "channel" or "exec"
    refuse_channels: bool = False
    seconds_between_channels: float = 0  # one that comes sooner is refused
    refuse_exec: bool = False
    set_up: Callable[[paramiko.Transport], None] | None = None  # called before it speaks
    right_password: Callable[[paramiko.Transport], int] = lambda _: paramiko.AUTH_SUCCESSFUL
    raw: Callable[[socket.socket], None] | None = None  # instead of SSH
    raw_times: int = 1_000_000  # for so many connections; after that comes SSH
    log: bytes | Path = b""  # what SFTP serves as "log", or the path of such a file
    log_size: int | None = -1  # what SFTP says that it has; -1: its real size, None: nothing
    host: str = "127.0.0.1"

    def __post_init__(self) -> None:
        self.commands: list[str] = []
        self.passwords: list[str] = []
        self.connections = 0
        self.read_at: dict[int, int] = {}  # over SFTP: offset and length
        self.reads = 0  # requests over SFTP, also those past the end
        self.stopped = threading.Event()
        self.connected = threading.Condition()
        self.transports: list[paramiko.Transport] = []
        self.sockets: list[socket.socket] = []
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self.listener = socket.create_server((self.host, 0), family=family, backlog=100)
        self.port = self.listener.getsockname()[1]
        host = f"[{self.host}]" if ":" in self.host else self.host
        self.address = f"{host}:{self.port}"

    def __enter__(self) -> SimulatedMMP:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for transport in self.transports:
            transport.close()
        for connection in self.sockets:
            connection.close()

    @property
    def bytes_read(self) -> int:
        """How much of the log was read; paramiko may ask for a part of it twice."""
        return sum(self.read_at.values())

    @property
    def known_hosts_line(self) -> str:
        return f"[{self.host}]:{self.port} {self.host_key.get_name()} {self.host_key.get_base64()}"

    def wait_for_commands(self, number: int = 1, seconds: float = 20) -> None:
        """Return when so many commands have come; raises AssertionError where they do not."""
        with self.connected:
            assert self.connected.wait_for(lambda: len(self.commands) >= number, seconds)

    def wait_for_connections(self, number: int = 1, seconds: float = 20) -> None:
        """Return when so many connections have come; raises AssertionError where they do not."""
        with self.connected:
            assert self.connected.wait_for(lambda: self.connections >= number, seconds)

    def _serve(self) -> None:
        while not self.stopped.is_set():
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with self.connected:
                self.connections += 1
                self.sockets.append(connection)
                self.connected.notify_all()
            threading.Thread(target=self._attend, args=(connection,), daemon=True).start()

    def _attend(self, connection: socket.socket) -> None:
        if self.raw and self.connections <= self.raw_times:
            with contextlib.suppress(OSError):
                self.raw(connection)
            return
        transport = _Transport(connection)
        transport.add_server_key(self.host_key)
        transport.set_subsystem_handler("sftp", paramiko.SFTPServer, _Files)
        if self.set_up:
            self.set_up(transport)
        self.transports.append(transport)
        with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
            transport.start_server(server=_Session(self, transport))


class _Transport(paramiko.Transport):
    """A transport that hangs up where paramiko's would not, and knows when it has replied."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection)
        self.replied = threading.Event()
        self.service_requests = 0
        self.read_leniently = self.packetizer.read_message
        self.packetizer.read_message = self._read_strictly

    def _read_strictly(self) -> tuple[int, paramiko.Message]:
        kind, message = self.read_leniently()
        self.service_requests += kind == SERVICE_REQUEST
        too_early = kind >= AFTER_LOGIN and not self.is_authenticated()
        if too_early or self.service_requests > 1:
            raise EOFError
        return kind, message

    def _send_user_message(self, message: paramiko.Message) -> None:
        super()._send_user_message(message)
        if message.asbytes()[0] == CHANNEL_SUCCESS:
            self.replied.set()


class _Session(paramiko.ServerInterface):
    """One connection, as paramiko asks about it."""

    def __init__(self, mmp: SimulatedMMP, transport: _Transport) -> None:
        self.mmp = mmp
        self.transport = transport
        self.rounds = list(mmp.questions)
        self.right = True
        self.last_channel = 0.0

    def get_allowed_auths(self, username: str) -> str:
        return self.mmp.methods

    def _stall(self, stage: str) -> None:
        if self.mmp.stall == stage:
            self.mmp.stopped.wait()

    def check_auth_password(self, username: str, password: str) -> int:
        self.mmp.passwords.append(password)  # also where it should not have been sent
        if "password" not in self.mmp.methods.split(","):
            return paramiko.AUTH_FAILED
        good = password == self.mmp.password
        result = self.mmp.right_password(self.transport) if good else paramiko.AUTH_FAILED
        self._stall("login")
        return result

    def check_auth_interactive(
        self, username: str, submethods: str
    ) -> int | paramiko.InteractiveQuery:
        if "keyboard-interactive" not in self.mmp.methods.split(","):
            return paramiko.AUTH_FAILED
        return self._ask()

    def _ask(self) -> paramiko.InteractiveQuery:
        query = paramiko.InteractiveQuery("", "")
        for question in self.rounds.pop(0):
            query.add_prompt(question, echo=self.mmp.echo)
        return query

    def check_auth_interactive_response(
        self, responses: list[str]
    ) -> int | paramiko.InteractiveQuery:
        self.mmp.passwords.extend(responses)
        self.right = self.right and all(text == self.mmp.password for text in responses)
        if self.rounds:
            return self._ask()
        return paramiko.AUTH_SUCCESSFUL if self.right else paramiko.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        self._stall("channel")
        since, self.last_channel = time.monotonic() - self.last_channel, time.monotonic()
        if self.mmp.refuse_channels or since < self.mmp.seconds_between_channels:
            return paramiko.OPEN_FAILED_RESOURCE_SHORTAGE
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        text = command.decode()
        with self.mmp.connected:
            self.mmp.commands.append(text)
            self.mmp.connected.notify_all()
        self._stall("exec")
        if self.mmp.refuse_exec:
            return False
        unknown = answer(f"Unknown command: {text}\n".encode(), 1)
        action = {"webbridge restart": self.mmp.restart, "webbridge": self.mmp.webbridge}
        self.transport.replied.clear()
        threading.Thread(
            target=self._act, args=(action.get(text, unknown), channel), daemon=True
        ).start()
        return True

    def _act(self, action: Action, channel: paramiko.Channel) -> None:
        self.transport.replied.wait(20)  # what comes before that, a client takes for a refusal
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            action(channel)


class _Files(paramiko.SFTPServerInterface):
    """The MMP's files, of which there is one, called log."""

    def __init__(self, server: _Session) -> None:
        self.mmp = server.mmp

    def open(self, path: str, flags: int, attr: object) -> paramiko.SFTPHandle | int:
        if path not in ("log", "/log"):
            return paramiko.SFTP_NO_SUCH_FILE
        return _LogHandle(self.mmp)


class _LogHandle(paramiko.SFTPHandle):
    def __init__(self, mmp: SimulatedMMP) -> None:
        super().__init__()
        self.mmp = mmp
        self.file: io.BufferedIOBase = (
            io.BytesIO(mmp.log) if isinstance(mmp.log, bytes) else mmp.log.open("rb")
        )
        self.lock = threading.Lock()

    def stat(self) -> paramiko.SFTPAttributes:
        attributes = paramiko.SFTPAttributes()
        size = self.mmp.log_size
        attributes.st_size = self.file.seek(0, os.SEEK_END) if size == -1 else size
        return attributes

    def read(self, offset: int, length: int) -> bytes | int:
        with self.lock:
            self.mmp.reads += 1
            self.file.seek(offset)
            data = self.file.read(length)
            self.mmp.read_at[offset] = len(data)
        return data or paramiko.SFTP_EOF

    def close(self) -> None:
        self.file.close()
