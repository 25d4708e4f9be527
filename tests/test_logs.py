"""Reading the servers' logs over SFTP: how much is read, and what can go wrong meanwhile.

All of it is real SSH. What the lines of a log mean, and what follows from the counters, are tables
elsewhere.
"""

from __future__ import annotations

import datetime
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncssh
import paramiko
import pytest

import webbridge_restart
from conftest import Clock, Run
from mmp import MMP, PASSWORD, PATIENCE
from steps import FOREVER, Step, reset

MIB = webbridge_restart.MIB
REQUEST = 1 << 15  # bytes that paramiko asks for at once
SMALL = 2 * REQUEST  # the first step of a reading, in the tests that need not read so much
COUNTED = "Leaked: 135 sessions (149 Web Bridge, 14 active CMA)."
READING = "reading the server's log"

# ---- Logs, and what is told of them --------------------------------------------------------------

NOW = f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M:%S}"
LINE = f"{NOW} user.info cms1 host:server:  INFO : recording device 1: available\n".encode()
WEB = f"{NOW} user.info cms1 webbridge: INFO : [DEBUGGING] Stats 149, c:3477, d:3170\n".encode()
FORGED_WEB = WEB.replace(b"149", b"20")
CALL = f'{NOW} user.info cms1 host:server:  INFO : STATS: {{"CMA": "14/17"}}\n'.encode()


def filler(size: int) -> bytes:
    """Return lines of this size, the last of which may be a short one."""
    return (LINE * (size // len(LINE) + 1))[: size - 1] + b"\n"


@pytest.fixture
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webbridge_restart, "LOG_STEPS", (SMALL, 16 * SMALL))


small_steps = pytest.mark.usefixtures("_small_steps")


def assert_counted(run: Run, server: MMP) -> None:
    ran = run([server], "--sessions")
    assert (ran.status, ran.err, ran.log) == (0, "", [])
    assert COUNTED in ran.out.splitlines()
    assert (server.commands, server.passwords) == ([], [PASSWORD])


def assert_not_counted(run: Run, server: MMP, reason: str, *end: str, code: int = 1) -> None:
    ran = run([server], "--sessions")
    assert "Leaked:" not in ran.out
    _, row, *others = ran.err.splitlines()
    assert row.partition("Not counted: ")[2] == reason
    assert others == [*end, "Cannot count: 1 of 1 server, see above."]
    assert (ran.status, server.passwords, server.connections) == (code, [PASSWORD], 1)


# ---- How much is read ----------------------------------------------------------------------------


def test_one_mebibyte_is_read_where_it_has_the_counters(run: Run) -> None:
    with MMP(log=filler(3 * MIB) + WEB + CALL) as server:
        assert_counted(run, server)
    assert server.bytes_read == MIB


@small_steps
@pytest.mark.parametrize(
    ("distance", "steps"), [(0, 1), (0.9, 1), (1, 16), (15.9, 16)], ids=["end", "1", "2", "16"]
)
def test_sixteen_times_as_much_is_read_where_a_counter_is_missing(
    run: Run, distance: float, steps: int
) -> None:
    log = filler(20 * SMALL) + WEB + filler(int(distance * SMALL)) + CALL
    with MMP(log=log) as server:
        assert_counted(run, server)
    assert server.bytes_read == steps * SMALL


NO_WEB = (
    "No Web Bridge counter in {} (such a line has: {}). Check that this server runs a Web Bridge 2."
)
EXAMPLE = '"webbridge": INFO : [DEBUGGING] Stats 149, c:3477, d:3170'


@small_steps
@pytest.mark.parametrize("size", [-1, None], ids=["its size", "no size"])
def test_what_is_further_back_does_not_count(run: Run, size: int | None) -> None:
    """Nor if a log does not tell its size, and so is read from its beginning."""
    with MMP(log=LINE + WEB + filler(20 * SMALL) + CALL, log_size=size) as server:
        assert_not_counted(run, server, NO_WEB.format("the last 1 MiB of the log", EXAMPLE))
        if size == -1:
            assert server.bytes_read == 16 * SMALL


def test_no_more_requests_are_sent_at_once_than_servers_take(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some take 64. asyncssh takes any number, so they are counted where they are sent."""
    unanswered: list[int] = []
    real = paramiko.SFTPClient._async_request

    def async_request(sftp: paramiko.SFTPClient, asker: Any, *others: Any) -> Any:
        if isinstance(asker, paramiko.SFTPFile):
            unanswered.append(len(asker._prefetch_extents) + 1)
        return real(sftp, asker, *others)

    monkeypatch.setattr(paramiko.SFTPClient, "_async_request", async_request)
    monkeypatch.setattr(webbridge_restart, "LOG_STEPS", (3 * MIB,))
    with MMP(log=filler(4 * MIB) + WEB + CALL, log_read=[0.002]) as server:
        assert_counted(run, server)
    assert len(unanswered) == 3 * MIB // REQUEST
    assert 1 < max(unanswered) <= 32


# ---- Sizes ---------------------------------------------------------------------------------------

SHORT_LOG = filler(3 * REQUEST) + WEB + CALL


@pytest.mark.parametrize("size", [0, None, len(SHORT_LOG) - 9], ids=["0", "none", "too small"])
def test_log_that_is_longer_than_it_says(run: Run, size: int | None) -> None:
    """As a virtual file, which does not tell its size, or a log that grows."""
    with MMP(log=SHORT_LOG, log_size=size) as server:
        assert_counted(run, server)


SHORTER = "The log became shorter while it was read. Try again."


@pytest.mark.parametrize(
    "missing", [1, REQUEST, 4 * REQUEST, 3 * MIB], ids=["a byte", "a request", "a part", "most"]
)
def test_log_that_shrinks(run: Run, missing: int) -> None:
    """What is left of it still has counters, and they are old."""
    with MMP(log=SHORT_LOG, log_size=len(SHORT_LOG) + missing) as server:
        assert_not_counted(run, server, SHORTER)


# ---- Lines at a cut ------------------------------------------------------------------------------


@small_steps
def test_line_that_the_first_step_cuts_in_two(run: Run) -> None:
    """Behind the cut stands what would look like a counter of its own."""
    begin = LINE.rstrip() + b" "
    rest = filler(SMALL - len(FORGED_WEB) - len(CALL)) + CALL
    assert len(FORGED_WEB + rest) == SMALL
    with MMP(log=filler(SMALL) + WEB + begin + FORGED_WEB + rest) as server:
        assert_counted(run, server)
    assert server.bytes_read > SMALL


@small_steps
def test_counter_that_the_first_step_cuts_in_two(run: Run) -> None:
    rest = filler(SMALL - len(WEB) // 2 - len(CALL)) + CALL
    with MMP(log=filler(SMALL) + WEB + rest) as server:
        assert_counted(run, server)
    assert server.bytes_read > SMALL


# ---- What goes wrong -----------------------------------------------------------------------------

CLOCK = Clock()


def reset_in_the_middle(here: Any) -> None:
    if here.mmp.read_at:
        reset(here)


def end_by_signal(_: object) -> None:
    signal.raise_signal(signal.SIGTERM)


DROPPED = f"The connection broke off while {READING}."
CUT_OFF = f"Cut off after 60 s while {READING}. A slow server needs a higher --timeout."


@pytest.mark.parametrize(
    ("log_read", "reason"),
    [
        pytest.param([reset], DROPPED, id="reset"),
        pytest.param([reset_in_the_middle], DROPPED, id="reset in the middle"),
        pytest.param([CLOCK.time_is_up, FOREVER], CUT_OFF, id="stall"),
    ],
)
def test_reading_that_breaks_off(
    run: Run, monkeypatch: pytest.MonkeyPatch, log_read: Sequence[Step], reason: str
) -> None:
    CLOCK.use(monkeypatch)
    with MMP(log=SHORT_LOG, log_read=log_read) as server:
        assert_not_counted(run, server, reason)


def test_signal_while_a_log_is_read(run: Run) -> None:
    with MMP(log=SHORT_LOG, log_read=[end_by_signal, FOREVER]) as server, MMP() as next_server:
        ran = run([server, next_server], "--if-leaked", "0")
    ended = f"Ended by SIGTERM. Not attempted: {next_server.address}"
    assert ran.log == [ended, "Nothing was restarted."]
    assert ran.err == f"{ended}\nNothing was restarted.\n"
    assert (ran.status, server.commands, next_server.connections) == (143, [], 0)


REFUSALS = [
    pytest.param(None, "Channel closed.", id="no SFTP"),
    pytest.param(asyncssh.SFTPNoSuchFile("gone"), "[Errno 2] gone", id="no log"),
    pytest.param(asyncssh.SFTPPermissionDenied("no"), "[Errno 13] no", id="no right"),
    pytest.param(asyncssh.SFTPFailure("\x1b[2J\nx"), r"\x1b[2J | x", id="hostile text"),
]


@pytest.mark.parametrize(("log", "said"), REFUSALS)
def test_server_that_does_not_show_its_log(
    run: Run, monkeypatch: pytest.MonkeyPatch, log: Any, said: str
) -> None:
    monkeypatch.setattr(webbridge_restart, "HANG_UP_SECONDS", 0.1)  # the connection lives
    shows_none = f"The server does not show its log over SFTP: {said}."
    with MMP(log=log) as server:
        assert_not_counted(run, server, f"{shows_none} Check what admin may do.")


def test_new_host_key_is_told_while_counting(run: Run, known_hosts: Path) -> None:
    known_hosts.touch()
    with MMP(log=SHORT_LOG) as server:
        ran = run([server], "--sessions", "--accept-new-host-keys")
    shown = f"ssh-ed25519 {server.host_key.get_fingerprint()}"
    told = f"Server 1 ({server.address}): new host key stored: {shown}"
    assert (ran.out.splitlines()[0], ran.err, ran.status) == (told, "", 0)
    assert COUNTED in ran.out.splitlines()
    assert known_hosts.read_text() == f"{server.known_hosts_line}\n"
    assert (server.connections, server.passwords) == (1, [PASSWORD])


def test_traceback_of_a_thread_that_reads_is_not_printed(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread of paramiko that sends the requests can come too late for the connection."""
    tracebacks: list[object] = []
    raised: list[BaseException] = []
    senders: list[threading.Thread] = []
    real = paramiko.SFTPClient._async_request

    def async_request(sftp: paramiko.SFTPClient, asker: object, *others: Any) -> Any:
        if isinstance(asker, paramiko.SFTPFile):  # else it is not from that thread
            if senders:
                sftp.get_channel().get_transport().join(PATIENCE)  # until it is closed
            senders.append(threading.current_thread())
        try:
            return real(sftp, asker, *others)
        except Exception as error:
            raised.append(error)
            raise

    monkeypatch.setattr(paramiko.SFTPClient, "_async_request", async_request)
    monkeypatch.setattr(threading, "excepthook", tracebacks.append)
    with MMP(log=WEB + CALL, log_size=2 * MIB) as server:
        assert_not_counted(run, server, SHORTER)
        for sender in senders:
            sender.join(PATIENCE)
    assert raised
    assert not tracebacks
