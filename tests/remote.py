"""A mocked paramiko: a test states what is at an address as data, and sees there what was sent.

    mmp = remote.at("10.48.79.194", connect=[REFUSED], answer=[b"FAILURE: a", 1, "end", "close"])
    assert remote.run().log == failed(mmp, "The server answered: FAILURE: a (exit status 1)")
    assert mmp.received == f"connect, {LOGIN}, session, webbridge restart, hang up"

A step raises an exception, takes seconds (float), returns what it is given, "hangs" until the run
is over, or meets a signal ("SIGTERM") and hangs; a handshake "stalls", or "drops" after it. An
answer is text, exit statuses (int), seconds of silence (float), exceptions, calls, and "end" (of
file), "close", "breaks" and "lost"; what comes at once is a tuple. What stands behind "join" comes
only while the script waits for the end of the connection. In each, Asleep may stand.

Its Transport and Channel are paramiko's own without a network. The clock stands still, except in a
sleep, in a step or a silence that takes seconds, and while the script waits for a step that hangs.
"""

from __future__ import annotations

import concurrent.futures
import io
import signal
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import paramiko
import pytest
from paramiko import PKey

import webbridge_restart
from conftest import CISCO, PASSWORD, Clock, Ran, Run

PATIENCE = 30  # seconds of the real clock; then a test fails
real_wait = concurrent.futures.wait

BLOB = b"\0\0\0\x0bssh-ed25519\0\0\0\x20"
KEY, OTHER_KEY = (PKey.from_type_string("ssh-ed25519", BLOB + 32 * byte) for byte in (b"1", b"2"))
ECDSA_KEY = paramiko.ECDSAKey.generate()
WHOLE = [CISCO.encode(), 0, "end", "close"]


class Thread(threading.Thread):
    """A thread of the script, which has its turn at once, until it ends or a step hangs."""

    def start(self) -> None:
        self.has_paused, self.may_go_on = threading.Event(), threading.Event()
        super().start()
        assert self.daemon  # else the end of the script waits for it
        assert self.has_paused.wait(PATIENCE)

    def run(self) -> None:
        try:
            super().run()
        finally:
            self.has_paused.set()

    def hang(self) -> None:
        self.has_paused.set()
        assert self.may_go_on.wait(PATIENCE)


@dataclass(frozen=True)
class Asleep:
    """A step in which the computer sleeps: only its wall clock goes on, or the other one, too."""

    wall: float
    other: float = 0.0

    def take(self, clock: Clock) -> None:
        clock.wall_ahead += self.wall
        clock.ahead += self.other


class Connection:
    """A socket, as far as the script and paramiko.Transport use it here."""

    def __init__(self, place: Place) -> None:
        self.place, self.is_open = place, True

    def ignore(self, *_: float) -> None:
        """It never waits, and sends nothing."""

    settimeout = setsockopt = ignore

    def shutdown(self, how: int) -> None:
        self.place.take("hang up")

    def close(self) -> None:
        self.is_open = False


class Transport(paramiko.Transport):
    def __init__(self, sock: Any) -> None:
        super().__init__(sock)
        self.place, self.remote_version = sock.place, "SSH-2.0-mock"
        self.coming: list[Any] = []

    def start_client(self, event: Any = None, timeout: float = 0) -> None:
        keys = self.place.keys.pop(0) if len(self.place.keys) > 1 else self.place.keys[0]
        step = self.place.take("handshake")
        self.active, self.drops = True, step == "drops"
        if step == "stalls":  # paramiko returns in silence
            self.place.clock.sleep(timeout)
        else:
            names = self._preferred_keys  # the first of these that the server has is used
            self.host_key = min(keys, key=lambda key: names.index(key.get_name()))
            self.host_key_type, self.initial_kex_done = self.host_key.get_name(), True

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

    def open_session(self, *_: Any, **__: Any) -> Channel:
        self.place.take("session")
        self.coming = list(self.place.answer)
        return Channel(self)

    def open_sftp_client(self) -> Any:
        self.place.take("session")
        self.place.take("sftp")
        return SimpleNamespace(open=self.open_file)

    def open_file(self, name: str) -> Log:
        self.place.take(name)
        return Log(self.place.text)

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end of the connection, which comes only in a test's steps."""
        if self.active:
            self.place.clock.sleep(timeout or 0)
            if self.coming[:1] == ["join"]:
                self.coming.pop(0)

    def close(self) -> None:
        self.active = False


class Channel(paramiko.Channel):
    def __init__(self, transport: Transport) -> None:
        super().__init__(1)
        self.transport, self.place = transport, transport.place
        self.coming = transport.coming

    def exec_command(self, command: str) -> None:
        self.place.take(command, "exec")

    def recv_ready(self) -> bool:
        return bool(self.coming) and isinstance(self.coming[0], bytes)

    def recv(self, nbytes: int) -> bytes:
        """Meet the next thing that comes, or else a second of silence."""
        event = self.coming.pop(0) if self.coming and self.coming[0] != "join" else 1.0
        if isinstance(event, bytes):
            return event
        for each in event if isinstance(event, tuple) else [event]:
            self.meet(each)
        if self.eof_received or self.closed:
            return b""
        raise socket.timeout

    def meet(self, event: Any) -> None:
        if isinstance(event, int):
            self.exit_status = event
        elif event == "end":
            self.eof_received = True
        elif event == "close":  # which paramiko answers with its own end of file
            self.closed = self.eof_sent = True
        elif event == "breaks":  # of which the channel knows a moment later
            self.transport.active = False
        elif event == "lost":
            self.closed, self.transport.active = True, False
        else:
            self.place.do(event)


class Log(io.BytesIO):
    """The one file that a server has."""

    def stat(self) -> SimpleNamespace:
        return SimpleNamespace(st_size=len(self.getvalue()))

    def prefetch(self, file_size: int, max_concurrent_requests: int) -> None:
        """All of it is here."""


class Place:
    """What is at an address: settings, and for each step what happens at its times in turn."""

    def __init__(self, clock: Clock, address: str, **state: Any) -> None:
        self.clock, self.address, self.received = clock, address, ""
        self.keys = list(state.pop("keys", [[KEY]]))  # that it has, at each connection in turn
        self.asks: list[Any] = state.pop("asks", [[("Password: ", False)], []])
        self.answer: list[Any] = state.pop("answer", WHOLE)
        self.text: bytes = state.pop("text", b"")  # of the log
        self.steps = {name: list(state[name]) for name in state}

    def note(self, what: str) -> None:
        self.received += f", {what}" if what and self.received else what

    def take(self, what: str, step: str = "") -> Any:
        """Note what came, and do what is stated for it."""
        self.note(what)
        todo = self.steps.get(step or what)
        now = todo.pop(0) if todo else None  # afterwards all goes well
        is_signal = isinstance(now, str) and now.startswith("SIG")
        if is_signal:
            signal.raise_signal(getattr(signal, now))
        thread = threading.current_thread()
        if (is_signal or now == "hangs") and isinstance(thread, Thread):
            thread.hang()
        return self.do(now)

    def do(self, event: Any) -> Any:
        if isinstance(event, Exception):
            raise event
        if isinstance(event, float):
            return self.clock.sleep(event)
        if isinstance(event, Asleep):
            return event.take(self.clock)
        return event() if callable(event) else event


class Remote:
    """A network of such places."""

    def __init__(self, patch: pytest.MonkeyPatch, known_hosts: Path, run: Run) -> None:
        self.known_hosts, self.run_script, self.clock = known_hosts, run, Clock(runs=False)
        self.places: dict[tuple[str, int], Place] = {}
        self.connections: list[Connection] = []
        self.clock.use(patch)
        patch.setattr(socket, "create_connection", self.connect)
        patch.setattr(paramiko, "Transport", Transport)
        patch.setattr(concurrent.futures, "wait", self.wait)
        threads = {**vars(threading), "Thread": Thread}
        patch.setattr(webbridge_restart, "threading", SimpleNamespace(**threads))

    def at(self, address: str, known: Sequence[PKey] = (KEY,), **state: Any) -> Place:
        host, port = webbridge_restart.parse_address(address)
        place = self.places[host, port] = Place(self.clock, address, **state)
        name = host if port == 22 else f"[{host}]:{port}"
        with self.known_hosts.open("a") as file:
            file.writelines(f"{name} {key.get_name()} {key.get_base64()}\n" for key in known)
        return place

    def run(self, *options: str, places: Sequence[Place] = ()) -> Ran:
        """Run the script on these places, or on all. Afterwards, what hangs goes on, too late."""
        ran = self.run_script(places or list(self.places.values()), *options)
        assert not any(connection.is_open for connection in self.connections)
        for thread in threading.enumerate():
            if isinstance(thread, Thread):
                thread.may_go_on.set()
                thread.join(PATIENCE)
        return ran

    def connect(self, address: tuple[str, int], timeout: float) -> Connection:
        self.places[address].take("connect")
        self.connections.append(Connection(self.places[address]))
        return self.connections[-1]

    def wait(self, futures: Sequence[concurrent.futures.Future[Any]], timeout: float) -> Any:
        """Let a second pass if what is waited for has not come: it hangs."""
        if not all(future.done() for future in futures):
            self.clock.sleep(1.0)
        return real_wait(futures, 0)


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch, known_hosts: Path, run: Run) -> Remote:
    """A mocked network."""
    return Remote(monkeypatch, known_hosts, run)
