"""What all tests share: a run of the script, and what it left behind."""

from __future__ import annotations

import datetime
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from paramiko import Transport

import webbridge_restart

pytest_plugins = ["remote"]  # a fixture

PASSWORD = "correct horse"
CISCO = (
    "SUCCESS: Key and certificate pair match\n"
    "SUCCESS: certificate verified against CA bundle\n"
    "SUCCESS: Webbridge enabled\n"
)
DOUBT = "The restart may or may not have happened: check the Web Bridge before you run this again."
RIGHTS = "Check which account runs this, and who owns the file"
# Where a clock that stands still begins
NOW = datetime.datetime(2026, 6, 20, 21, 16, tzinfo=datetime.timezone.utc)
STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}\+00:00 ")


class Ran(NamedTuple):
    status: int
    out: str
    err: str
    log: list[str]  # its lines without their stamps
    seconds: float  # by the script's clock


Run = Callable[..., Ran]


class Clock:
    """The script's time, which a test or a server lets jump, so that nobody waits for a long limit.

    It has two parts, as on a computer: one for spans, and the wall clock, which can be set. Both
    run beside the real ones, or else stand still.
    """

    def __init__(self, runs: bool = True) -> None:
        self.runs = runs
        self.ahead = self.wall_ahead = 0.0

    def monotonic(self) -> float:
        return self.ahead + (time.monotonic() if self.runs else 1000.0)

    def time(self) -> float:
        return self.wall_ahead + (time.time() if self.runs else NOW.timestamp())

    def now(self, zone: datetime.tzinfo | None = None) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self.time(), zone)

    def sleep(self, seconds: float) -> None:
        self.ahead += seconds
        self.wall_ahead += seconds

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Give the script this clock, and no other module: a server has its own."""
        times = {**vars(time), "monotonic": self.monotonic, "time": self.time}
        if not self.runs:
            times["sleep"] = self.sleep
        monkeypatch.setattr(webbridge_restart, "time", SimpleNamespace(**times))
        moments = type("datetime", (datetime.datetime,), {"now": self.now})
        dates = {**vars(datetime), "datetime": moments}
        monkeypatch.setattr(webbridge_restart, "datetime", SimpleNamespace(**dates))

    def nine_seconds_later(self, _: object) -> None:
        self.ahead += 9.0

    def time_is_up(self, _: object) -> None:
        self.ahead += 1000.0


def unstamped(text: str) -> list[str]:
    """Return the log's lines without their stamps, each of which must be there."""
    lines = text.splitlines()
    assert all(STAMP.match(line) for line in lines), text
    return [STAMP.sub("", line, count=1) for line in lines]


@pytest.fixture(autouse=True)
def _usual_signals() -> None:
    """Heed what a shell ignores for what it runs in the background, or an earlier test changed."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the waits of which a test on a real clock need not see the full length."""
    if "remote" not in request.fixturenames:
        monkeypatch.setattr(webbridge_restart, "SECONDS_BETWEEN_TRIES", 0.01)


@pytest.fixture(autouse=True)
def _connections_end() -> Iterator[None]:
    """Wait for paramiko's threads: one that outlives its test would show in the next.

    On Python 3.11, one that formats a traceback can break another that parses source text.
    """
    yield
    for thread in threading.enumerate():
        if isinstance(thread, Transport):
            thread.join(20)


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    return tmp_path / "log.txt"


@pytest.fixture
def known_hosts(tmp_path: Path) -> Path:
    return tmp_path / "known_hosts"


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    log_file: Path,
    known_hosts: Path,
) -> Run:
    """Run main() on servers, which have an address and a known_hosts_line, or on addresses.

    The log is the one that this run wrote; what was in the file before is not repeated.
    """
    monkeypatch.setenv("MMP_PASSWORD", PASSWORD)
    script = known_hosts.with_name(webbridge_restart.SCRIPT.name)
    script.touch()  # parsing the real one, or all its mutations, in each run would take long
    monkeypatch.setattr(webbridge_restart, "SCRIPT", script)

    def run_once(servers: Sequence[Any], *options: str) -> Ran:
        addresses = [address_of(server) for server in servers]
        monkeypatch.setattr(webbridge_restart, "WEBBRIDGES", dict(enumerate(addresses, 1)))
        if not known_hosts.exists():
            lines = [server.known_hosts_line for server in servers if not isinstance(server, str)]
            known_hosts.write_text("".join(f"{line}\n" for line in lines))
        before = log_file.stat().st_size if log_file.is_file() else 0
        began = webbridge_restart.time.monotonic()
        status = webbridge_restart.main(
            ["--known-hosts", str(known_hosts), "--log-file", str(log_file), *options]
        )
        seconds = webbridge_restart.time.monotonic() - began
        log = log_file.read_bytes()[before:].decode() if log_file.is_file() else ""
        printed = capsys.readouterr()
        return Ran(status, printed.out, printed.err, unstamped(log), seconds)

    return run_once


def address_of(server: Any) -> str:
    return server if isinstance(server, str) else server.address


def restarted(server: Any) -> str:
    return f"Webbridge on server: {address_of(server)} restarted successfully"


def failed(server: Any, reason: str) -> list[str]:
    return [f"Failed to restart webbridge on server {address_of(server)}. Error:", reason]


def error_of(action: Callable[[], object]) -> str:
    """Return the system's words for what this action raises; they differ between systems."""
    with pytest.raises(OSError) as raised:
        action()
    is_right_missing = isinstance(raised.value, PermissionError)  # which a folder is on Windows
    return f"{raised.value.strerror}{f'. {RIGHTS}' if is_right_missing else ''}"
