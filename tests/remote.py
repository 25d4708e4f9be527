"""A mocked paramiko: a test states what is at an address as data, and sees there what was sent.

    mmp = remote.at("10.48.79.194", connect=[REFUSED], answer=[b"FAILURE: a", 1, END, CLOSE])
    assert run([mmp]).log == failed(mmp, "The server answered: FAILURE: a (exit status 1)")
    assert mmp.received == f"connect, {LOGIN}, session, webbridge restart, hang up"

Its Transport and Channel are paramiko's own without a network. The clock stands still, except in a
sleep, in a look at an answer that meets silence, and in a call that hangs.
"""

from __future__ import annotations

import contextlib
import io
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import paramiko
import pytest
from paramiko import PKey

import webbridge_restart
from conftest import CISCO, PASSWORD

PATIENCE = 30  # seconds of the real clock; then a test fails
real_sleep, real_monotonic = time.sleep, time.monotonic
# conftest.py shortens these, which is of no use where the clock is mocked.
LENGTHS = ("SECONDS_BETWEEN_TRIES", "SECONDS_OF_SILENCE")
REAL_LENGTHS = {name: getattr(webbridge_restart, name) for name in LENGTHS}

BLOB = b"\0\0\0\x0bssh-ed25519\0\0\0\x20"
KEY, OTHER_KEY = (PKey.from_type_string("ssh-ed25519", BLOB + 32 * byte) for byte in (b"1", b"2"))
ECDSA_KEY = paramiko.ECDSAKey.generate()

STALLS, DROPS = "stalls", "drops"  # a step that does not end; a handshake with a hang-up after it
# An answer is text, exit statuses (numbers), exceptions, calls, and these:
END, CLOSE, LOST, SECOND, OUR_END = "end of file", "close", "lost", "silence", "until our end"
WHOLE = [CISCO.encode(), 0, END, CLOSE]


class Connection(socket.socket):
    place: Place

    @property
    def is_closed(self) -> bool:
        return self.fileno() == -1


class Transport(paramiko.Transport):
    def __init__(self, sock: Any) -> None:
        super().__init__(sock)
        self.place, self.remote_version = sock.place, sock.place.version

    def start_client(self, event: Any = None, timeout: float = 0) -> None:
        keys = self.place.keys.pop(0) if len(self.place.keys) > 1 else self.place.keys[0]
        step = self.place.take("handshake")
        common = [key for key in keys if key.get_name() in self._preferred_keys]
        if step == STALLS:  # paramiko returns in silence
            self.active, self.place.remote.now = True, self.place.remote.now + timeout
        elif common:
            self.host_key, self.host_key_type = common[0], common[0].get_name()
            self.initial_kex_done = self.active = True
            self.drops = step == DROPS
        else:
            raise paramiko.ssh_exception.IncompatiblePeer("no acceptable host key")

    def get_remote_server_key(self) -> PKey:
        key = super().get_remote_server_key()
        self.active = not self.drops
        return key

    def auth_password(
        self, username: str, password: str, event: Any = None, fallback: bool = True
    ) -> list[str]:
        is_right = (username, password, fallback) == ("admin", PASSWORD, False)
        return self.place.take("password" if is_right else "something else", "login") or []

    def auth_interactive(self, username: str, handler: Any, submethods: str = "") -> list[str]:
        for questions in self.place.asks:
            answers = handler("", "", questions)
            if answers:
                self.place.note("answer" if answers == [PASSWORD] else "something else")
        return self.place.take("", "question") or []

    def open_session(self, window_size: int = 0, *_: Any) -> Channel:
        self.place.take("session")
        return Channel(self, window_size)

    def open_sftp_client(self) -> Log:
        self.place.take("session")
        self.place.take("sftp")
        return Log(self.place)

    def join(self, timeout: float | None = None) -> None:
        """Its thread was never started."""

    def close(self) -> None:
        self.active = False
        if not self.sock.is_closed:
            self.place.take("hang up")


class Channel(paramiko.Channel):
    def __init__(self, transport: Transport, window_size: int) -> None:
        super().__init__(1)
        self.transport, self.place, self.window_size = transport, transport.place, window_size
        self.coming = list(self.place.answer)

    def exec_command(self, command: str) -> None:
        if self.place.take(command, "exec") == STALLS:
            self.place.remote.wait()

    def shutdown_write(self) -> None:
        self.place.note("our end")
        self.eof_sent = True

    def recv_ready(self) -> bool:
        return bool(self.coming) and isinstance(self.coming[0], bytes)

    def recv(self, nbytes: int) -> bytes:
        """Meet the next thing that comes, or else a second of silence."""
        assert self.timeout and self.combine_stderr and nbytes < self.window_size  # never blocks
        self.place.remote.settle()
        event = self.coming.pop(0) if self.coming else SECOND
        if isinstance(event, bytes):
            return event
        if isinstance(event, Exception):
            raise event
        self.meet(event)
        if self.eof_received or self.closed:
            return b""
        raise socket.timeout

    def meet(self, event: Any) -> None:
        if callable(event):
            event()
        elif isinstance(event, int):
            self.exit_status = event
            self.status_event.set()
        elif event == END:
            self.eof_received = True
        elif event == CLOSE:  # which paramiko answers with its own end of file
            self.closed = self.eof_sent = True
        elif event == LOST:
            self.closed, self.transport.active = True, False
        elif event == SECOND or not self.eof_sent:
            self.place.remote.now += 1
            self.coming[:0] = [OUR_END] if event == OUR_END else []


class Log(io.BytesIO):
    """Paramiko's SFTPClient, and the one file that the server has."""

    def __init__(self, place: Place) -> None:
        super().__init__(place.text)
        self.place = place

    def open(self, filename: str) -> Log:
        self.place.take(filename)
        return self

    def stat(self) -> SimpleNamespace:
        return SimpleNamespace(st_size=len(self.getvalue()))

    def prefetch(self, file_size: int, max_concurrent_requests: int) -> None:
        assert file_size == len(self.getvalue())


class Place:
    """What is at an address: settings, and for each step what happens at its times in turn."""

    def __init__(self, remote: Remote, address: str, **state: Any) -> None:
        self.remote, self.address, self.received = remote, address, ""
        self.keys = list(state.pop("keys", [[KEY]]))  # that it has, at each connection in turn
        self.version: str = state.pop("version", "SSH-2.0-OpenSSH_9.2")
        self.asks: list[Any] = state.pop("asks", [[("Password: ", False)], []])
        self.answer: list[Any] = state.pop("answer", WHOLE)
        self.text: bytes = state.pop("text", b"")  # of the log
        self.steps = {name: list(state[name]) for name in state}

    def note(self, what: str) -> None:
        self.received += f", {what}" if what and self.received else what

    def take(self, what: str, step: str = "") -> Any:
        """Note what came, and do what is stated for it: raise, call or return it."""
        self.note(what)
        todo = self.steps.get(step or what)
        now = todo.pop(0) if todo else None  # afterwards all goes well
        if isinstance(now, Exception):
            raise now
        return now() if callable(now) else now


class Remote:
    def __init__(self, known_hosts: Path) -> None:
        self.known_hosts, self.now = known_hosts, 1000.0  # the clock
        self.places: dict[tuple[str, int], Place] = {}
        self.connections: list[Connection] = []
        self.before, self.waiting = set(threading.enumerate()), set[threading.Thread]()
        self.may_go_on = threading.Event()

    def at(self, address: str, known: Sequence[PKey] = (KEY,), **state: Any) -> Place:
        host, port = webbridge_restart.parse_address(address)
        place = self.places[host, port] = Place(self, address, **state)
        name = host if port == 22 else f"[{host}]:{port}"
        with self.known_hosts.open("a") as file:
            file.writelines(f"{name} {key.get_name()} {key.get_base64()}\n" for key in known)
        return place

    def connect(self, address: tuple[str, int], timeout: float) -> Connection:
        assert timeout == 18  # the share of a try in 60 seconds
        self.places[address].take("connect")
        connection = Connection()
        connection.place = self.places[address]
        self.connections.append(connection)
        return connection

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def wait(self, after: Callable[[], object] = lambda: None) -> None:
        """A step that returns at go_on()."""
        after()
        self.waiting.add(threading.current_thread())
        assert self.may_go_on.wait(PATIENCE)

    def hang(self) -> None:
        """A step that takes an hour of the mocked clock, and in truth until go_on()."""
        self.wait(lambda: self.sleep(3600))

    def interrupt(self, number: int) -> Callable[[], None]:
        """Return a step in which a signal comes, and which returns at go_on()."""
        return lambda: self.wait(lambda: signal.raise_signal(number))

    def settle(self) -> None:
        """Wait until every thread has ended, or waits in a step."""
        ends_at = real_monotonic() + PATIENCE
        while set(threading.enumerate()) - self.before - self.waiting:
            assert real_monotonic() < ends_at
            real_sleep(0.0005)

    def go_on(self) -> None:
        self.settle()
        self.may_go_on.set()
        self.waiting.clear()
        self.settle()


@contextlib.contextmanager
def mocked(monkeypatch: pytest.MonkeyPatch, known_hosts: Path) -> Iterator[Remote]:
    """Yield a network without a server; afterwards, nothing is left open or unforeseen."""
    remote = Remote(known_hosts)
    monkeypatch.setattr(socket, "create_connection", remote.connect)
    monkeypatch.setattr(paramiko, "Transport", Transport)
    monkeypatch.setattr(time, "monotonic", lambda: remote.now)
    monkeypatch.setattr(time, "sleep", remote.sleep)
    for name, length in {**REAL_LENGTHS, "TICK": 0.01, "HANG_UP_SECONDS": 0.01}.items():
        monkeypatch.setattr(webbridge_restart, name, length)
    script = known_hosts.with_name(webbridge_restart.SCRIPT.name)
    script.touch()  # parsing the real one in each run would take half of the time
    monkeypatch.setattr(webbridge_restart, "SCRIPT", script)
    yield remote
    remote.go_on()
    left_open = [connection for connection in remote.connections if not connection.is_closed]
    for connection in left_open:
        connection.close()
    assert left_open == []
