"""A mocked paramiko: a test states what is at an address as data, and sees there what was sent.

    mmp = remote.at("10.48.79.194", connect=[REFUSED], answer=[b"FAILURE: a", 1, "end", "close"])
    assert remote.run().log == failed(mmp, "The server answered: FAILURE: a (exit status 1)")
    assert mmp.received == f"connect, {LOGIN}, session, webbridge restart, hang up"

A step raises an exception, takes seconds (float), returns what it is given, "hangs" for an hour,
"waits", or meets a signal ("SIGTERM"); a handshake "stalls", or "drops" after it. An answer is
text, exit statuses (int), seconds of silence (float), exceptions, calls, and "end" (of file),
"close", "breaks", "lost" and "our end" (silence until that); what comes at once is a tuple.

Its Transport and Channel are paramiko's own without a network. The clock stands still, except in a
sleep, in a step or a silence that takes seconds, and in a step that hangs.
"""

from __future__ import annotations

import concurrent.futures
import io
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import paramiko
import pytest
from paramiko import PKey

import webbridge_restart
from conftest import CISCO, PASSWORD, Ran, Run

PATIENCE = 30  # seconds of the real clock; then a test fails
real_sleep, real_monotonic, real_wait = time.sleep, time.monotonic, concurrent.futures.wait

BLOB = b"\0\0\0\x0bssh-ed25519\0\0\0\x20"
KEY, OTHER_KEY = (PKey.from_type_string("ssh-ed25519", BLOB + 32 * byte) for byte in (b"1", b"2"))
ECDSA_KEY = paramiko.ECDSAKey.generate()
WHOLE = [CISCO.encode(), 0, "end", "close"]


class Connection(socket.socket):
    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place


class Transport(paramiko.Transport):
    def __init__(self, sock: Any) -> None:
        super().__init__(sock)
        self.place = sock.place

    def start_client(self, event: Any = None, timeout: float = 0) -> None:
        keys = self.place.keys.pop(0) if len(self.place.keys) > 1 else self.place.keys[0]
        step = self.place.take("handshake")
        self.active, self.drops = True, step == "drops"
        if step == "stalls":  # paramiko returns in silence
            self.place.remote.sleep(timeout)
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

    def open_session(self, window_size: int = 0, *_: Any) -> Channel:
        self.place.take("session")
        return Channel(self, window_size)

    def open_sftp_client(self) -> Any:
        self.place.take("session")
        self.place.take("sftp")
        return SimpleNamespace(open=self.open_file)

    def open_file(self, name: str) -> Log:
        self.place.take(name)
        return Log(self.place.text)

    def join(self, timeout: float | None = None) -> None:
        """Its thread was never started."""
        assert timeout == webbridge_restart.TICK  # short, so that a suspension takes one of many

    def close(self) -> None:
        self.active = False
        if self.sock.fileno() != -1:
            self.place.take("hang up")


class Channel(paramiko.Channel):
    def __init__(self, transport: Transport, window_size: int) -> None:
        super().__init__(1)
        self.transport, self.place, self.window_size = transport, transport.place, window_size
        self.coming = list(self.place.answer)

    def exec_command(self, command: str) -> None:
        self.place.take(command, "exec")

    def shutdown_write(self) -> None:
        self.place.note("our end")
        self.eof_sent = True

    def recv_ready(self) -> bool:
        return bool(self.coming) and isinstance(self.coming[0], bytes)

    def recv(self, nbytes: int) -> bytes:
        """Meet the next thing that comes, or else a second of silence."""
        assert self.timeout == 0 and self.combine_stderr and nbytes < self.window_size
        self.place.remote.settle()
        is_waiting = self.coming[:1] == ["our end"] and not self.eof_sent
        event = self.coming.pop(0) if self.coming and not is_waiting else 1.0
        if isinstance(event, bytes):
            return event
        if isinstance(event, Exception):
            raise event
        for each in event if isinstance(event, tuple) else [event]:
            self.meet(each)
        if self.eof_received or self.closed:
            return b""
        raise socket.timeout

    def meet(self, event: Any) -> None:
        if callable(event):
            event()
        elif isinstance(event, float):
            self.place.remote.sleep(event)
        elif isinstance(event, int):
            self.exit_status = event
        elif event == "end":
            self.eof_received = True
        elif event == "close":  # which paramiko answers with its own end of file
            self.closed = self.eof_sent = True
        elif event == "breaks":  # of which the channel knows a moment later
            self.transport.active = False
        elif event == "lost":
            self.closed, self.transport.active = True, False


class Log(io.BytesIO):
    """The one file that a server has."""

    def stat(self) -> SimpleNamespace:
        return SimpleNamespace(st_size=len(self.getvalue()))

    def prefetch(self, file_size: int, max_concurrent_requests: int) -> None:
        assert file_size == len(self.getvalue())


class Place:
    """What is at an address: settings, and for each step what happens at its times in turn."""

    def __init__(self, remote: Remote, address: str, **state: Any) -> None:
        self.remote, self.address, self.received = remote, address, ""
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
        if isinstance(now, Exception):
            raise now
        if isinstance(now, float):
            return self.remote.sleep(now)
        if isinstance(now, str) and now.startswith("SIG"):
            signal.raise_signal(getattr(signal, now))
        elif now == "hangs":
            self.remote.sleep(3600)
        if isinstance(now, str) and now not in ("stalls", "drops"):
            self.remote.wait()
        return now() if callable(now) else now


class Remote:
    """A network of such places."""

    def __init__(self, patch: pytest.MonkeyPatch, known_hosts: Path, run: Run) -> None:
        self.known_hosts, self.run_on, self.now = known_hosts, run, 1000.0  # the clock
        self.places: dict[tuple[str, int], Place] = {}
        self.connections: list[Connection] = []
        self.before, self.waiting = set(threading.enumerate()), set[threading.Thread]()
        self.may_go_on = threading.Event()
        patch.setattr(socket, "create_connection", self.connect)
        patch.setattr(paramiko, "Transport", Transport)
        patch.setattr(time, "monotonic", lambda: self.now)
        patch.setattr(time, "sleep", self.sleep)
        patch.setattr(concurrent.futures, "wait", self.wait_for)
        patch.setattr(webbridge_restart, "TICK", 0.001)  # no part of a second that a run tells

    def at(self, address: str, known: Sequence[PKey] = (KEY,), **state: Any) -> Place:
        host, port = webbridge_restart.parse_address(address)
        place = self.places[host, port] = Place(self, address, **state)
        name = host if port == 22 else f"[{host}]:{port}"
        with self.known_hosts.open("a") as file:
            file.writelines(f"{name} {key.get_name()} {key.get_base64()}\n" for key in known)
        return place

    def run(self, *options: str) -> Ran:
        """Run the script on all places, in the order of their first mention."""
        return self.run_on(list(self.places.values()), *options)

    def connect(self, address: tuple[str, int], timeout: float) -> Connection:
        assert timeout == 18  # the share of a try in 60 seconds
        self.places[address].take("connect")
        self.connections.append(Connection(self.places[address]))
        return self.connections[-1]

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def wait(self) -> None:
        """Wait in a thread of the script until go_on()."""
        if threading.current_thread() is not threading.main_thread():
            self.waiting.add(threading.current_thread())
            assert threading.current_thread().daemon  # else the end of the run waits for it
            assert self.may_go_on.wait(PATIENCE)

    def wait_for(self, futures: Any, timeout: float) -> Any:
        """Wait as long as something happens: no slow computer makes a difference."""
        self.settle()
        return real_wait(futures, 0)

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


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch, known_hosts: Path, run: Run) -> Iterator[Remote]:
    """A mocked network; afterwards, nothing is left at work or open."""
    remote = Remote(monkeypatch, known_hosts, run)
    yield remote
    remote.go_on()
    assert all(connection.fileno() == -1 for connection in remote.connections)
