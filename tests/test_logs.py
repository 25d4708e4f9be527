"""Reading the servers' logs over SFTP, on real SSH: how much is read, and what can go wrong.

What the lines of a log mean, and what follows from the counters, are tables elsewhere.
"""

from __future__ import annotations

import datetime
import threading
from typing import Any
from unittest.mock import Mock, create_autospec

import asyncssh
import paramiko
from pytest import MonkeyPatch, mark

import webbridge_restart
from conftest import Run, restarted
from mmp import MMP, PASSWORD, PATIENCE
from steps import refuse_beside_another, reset

MIB = 1 << 20
REQUEST = 1 << 15  # bytes that paramiko asks for at once
STEP = 2 * REQUEST  # the first step of a reading, in the tests that need not read so much

# ---- Logs, and what is told of them --------------------------------------------------------------

NOW = f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M:%S}"
LINE = f"{NOW} user.info cms1 host:server:  INFO : recording device 1: available\n".encode()
WEB = f"{NOW} user.info cms1 webbridge: INFO : [DEBUGGING] Stats 149, c:3477, d:3170\n".encode()
CALL = f'{NOW} user.info cms1 host:server:  INFO : STATS: {{"CMA": "14/17"}}\n'.encode()
FORGED_WEB = WEB.replace(b"149", b"20")


def filler(size: float) -> bytes:
    """Return lines of this size, the last of which may be a short one."""
    return (LINE * (int(size) // len(LINE) + 1))[: int(size) - 1] + b"\n"


LOG = filler(3 * REQUEST) + WEB + CALL


def assert_counted(run: Run, server: MMP) -> None:
    ran = run([server], "--sessions")
    assert (ran.status, ran.err, ran.log) == (0, "", [])
    assert "Leaked: 135 sessions (149 Web Bridge, 14 active CMA)." in ran.out.splitlines()
    assert (server.commands, server.passwords) == ([], [PASSWORD])


# ---- What counts ---------------------------------------------------------------------------------


def test_one_mebibyte_is_read_where_it_has_the_counters(run: Run, monkeypatch: MonkeyPatch) -> None:
    """No more requests are sent at once than servers take. Some take 64."""
    prefetch = create_autospec(paramiko.SFTPFile.prefetch, side_effect=paramiko.SFTPFile.prefetch)
    monkeypatch.setattr(paramiko.SFTPFile, "prefetch", prefetch)
    with MMP(log=filler(3 * MIB) + WEB + CALL) as server:
        assert_counted(run, server)
    assert server.bytes_read == MIB
    assert [each.kwargs for each in prefetch.call_args_list] == [{"max_concurrent_requests": 32}]


FAR, LAST_LINES = filler(20 * STEP) + WEB, filler(STEP - len(FORGED_WEB) - len(CALL)) + CALL
FORGING = LINE.rstrip() + b" " + FORGED_WEB


def grow(here: Any) -> None:
    here.mmp.log += FORGED_WEB + LINE * 1000


COUNTED: dict[str, tuple[dict[str, Any], int]] = {  # settings, and how many steps are read
    "in the first step": ({"log": FAR + filler(0.9 * STEP) + CALL}, 1),
    "at the other end": ({"log": FAR + filler(15.9 * STEP) + CALL}, 16),
    # what is left of a line, in the first step, looks like a counter of its own
    "half a line": ({"log": FAR + FORGING + LAST_LINES}, 16),
    "half a line, no size": ({"log": FAR + FORGING + LAST_LINES, "log_size": None}, 0),
    # as a virtual file, which does not tell its size
    "size 0": ({"log_size": 0}, 0),
    "no size": ({"log_size": None}, 0),
    # what is logged while it is read does not count
    "a log that grows": ({"log_read": [grow]}, 1),
}


@mark.parametrize(("settings", "steps"), COUNTED.values(), ids=COUNTED)
def test_useful_log(run: Run, monkeypatch: MonkeyPatch, settings: Any, steps: int) -> None:
    monkeypatch.setattr(webbridge_restart, "LOG_STEPS", (STEP, 16 * STEP))
    with MMP(**{"log": LOG, **settings}) as server:
        assert_counted(run, server)
    if steps:
        assert server.bytes_read == steps * STEP


def test_hangs_up_before_the_next_login(run: Run) -> None:
    """An account may be allowed one session. The end of the first must not take 0.1 s."""
    with MMP(log=LOG, login=[refuse_beside_another]) as server:
        ran = run([server], "--if-leaked", "20")
    words = "Restarting: 14 active sessions; 135 leaked sessions."
    assert ran.log == [words, restarted(server)]
    assert server.connections == 2


# ---- What does not -------------------------------------------------------------------------------

NO_WEB = "No Web Bridge counter in the last 1 MiB of the log"  # 16 steps
SHORTER = "The log became shorter while it was read. Try again."
BROKE_OFF = "The connection broke off while reading the server's log."
NOT_SHOWN = "The server does not show its log over SFTP: {}. Check what admin may do."
FAR_BACK = LINE + WEB + filler(20 * STEP) + CALL
NO_FILE, STRANGE = asyncssh.SFTPNoSuchFile("gone"), asyncssh.SFTPFailure("\x1b[2J\nx")


def reset_in_the_middle(here: Any) -> None:
    if here.mmp.read_at:
        reset(here)


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "too far back": ({"log": FAR_BACK}, NO_WEB),
    "too far from the begin": ({"log": FAR_BACK, "log_size": None}, NO_WEB),
    # what is left of a log that shrinks still has counters, and they are old
    "without a byte": ({"log_size": len(LOG) + 1}, SHORTER),
    "without a part": ({"log_size": len(LOG) + 4 * REQUEST}, SHORTER),
    "reset in the middle": ({"log_read": [reset_in_the_middle]}, BROKE_OFF),
    "no SFTP": ({"log": None}, NOT_SHOWN.format("Channel closed")),
    "no log": ({"log": NO_FILE}, NOT_SHOWN.format("[Errno 2] gone")),
    "hostile text": ({"log": STRANGE}, NOT_SHOWN.format(r"\x1b[2J | x")),
}


@mark.parametrize(("settings", "reason"), FAULTS.values(), ids=FAULTS)
def test_useless_log(run: Run, monkeypatch: MonkeyPatch, settings: Any, reason: str) -> None:
    monkeypatch.setattr(webbridge_restart, "LOG_STEPS", (STEP, 16 * STEP))
    # A connection that lives need not be waited for; that one is gone can show late.
    seconds = PATIENCE if reason == BROKE_OFF else 0.1
    monkeypatch.setattr(webbridge_restart, "LOSS_SECONDS", seconds)
    with MMP(**{"log": LOG, **settings}) as server:
        ran = run([server], "--sessions")
    assert (ran.status, server.passwords, server.connections) == (1, [PASSWORD], 1)
    _, row, end = ran.err.splitlines()
    assert row.partition("Not counted: ")[2].startswith(reason)
    assert end == "Cannot count: 1 of 1 server, see above."
    assert "Leaked:" not in ran.out


def test_no_traceback_of_a_thread(run: Run, monkeypatch: MonkeyPatch) -> None:
    """A thread of paramiko that asks for parts of a log can come too late for the connection."""
    printed = Mock()
    monkeypatch.setattr(threading, "excepthook", printed)
    run([], "--sessions")
    thread = threading.Thread(target=int, args=["no number"])
    thread.start()
    thread.join()
    assert not printed.called
