"""The reply to a restart, cut at every place and ended in every way, over real SSH.

Only the end of an answer tells that it is whole. So Cisco's reply is cut after every line, and
after every byte of its first line, and ended in the ways that servers and networks have. What must
be logged stands in a table. A row is one run of main() on one server for each cut.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NamedTuple

import pytest

import webbridge_restart
from conftest import Clock, Run, restarted
from mmp import MMP, PASSWORD
from steps import (
    FOREVER,
    SUCCESS,
    Step,
    close,
    end_of_file,
    goodbye,
    hang_up,
    reset,
    status,
    wait_for_end_of_file,
    wait_until_received,
)

FIRST, SECOND, THIRD = SUCCESS.splitlines(keepends=True)
FAILURE = b"\nFAILURE: Webbridge configuration not complete\n"
MAYBE = "The restart may or may not have happened"

# ---- The cuts ------------------------------------------------------------------------------------


class Cut(NamedTuple):
    """How much of the reply comes; "a word" and "a part" are less than its first line."""

    kind: str
    text: bytes


CUTS = [
    Cut("nothing", b""),
    *(Cut("a word", FIRST[:size]) for size in range(1, len(b"SUCCESS:"))),
    *(Cut("a part", FIRST[:size]) for size in range(len(b"SUCCESS:"), len(FIRST))),
    Cut("one line", FIRST),
    Cut("two lines", FIRST + SECOND),
    Cut("all", SUCCESS),
]
EVERY_CUT = CUTS
A_CUT_OF_EACH_KIND = list({cut.kind: cut for cut in CUTS}.values())

# ---- What must be logged -------------------------------------------------------------------------

# "yes": restarted. "no": failed, without doubt. "maybe": failed, may or may not have happened.
# fmt: off
KINDS =                    ("nothing", "a word", "a part", "one line", "two lines", "all")
AT_EVERY_CUT = {
    "status 0":            ("yes",     "maybe",  "yes",    "yes",      "yes",       "yes"),
    "status 1":            ("no",      "no",     "no",     "no",       "no",        "no"),
    "status 0, reset":     ("maybe",   "maybe",  "maybe",  "maybe",    "maybe",     "maybe"),
    "close":               ("maybe",   "maybe",  "maybe",  "maybe",    "maybe",     "yes"),
    "end of file":         ("maybe",   "maybe",  "maybe",  "maybe",    "maybe",     "yes"),
    "reset":               ("maybe",   "maybe",  "maybe",  "maybe",    "maybe",     "maybe"),
    "silence":             ("maybe",   "maybe",  "maybe",  "maybe",    "maybe",     "maybe"),
    "late FAILURE":        ("no",      "no",     "no",     "no",       "no",        "no"),
    "late SUCCESS":        ("yes",     "yes",    "yes",    "yes",      "yes",       "yes"),
    "our end, status 0":   ("maybe",   "maybe",  "maybe",  "yes",      "yes",       "yes"),
}
ONCE_FOR_EACH_KIND = {
    "status 0, and open":  ("yes",     "maybe",  "yes",    "yes",      "yes",       "yes"),
    "status 0, hang up":   ("maybe",   "maybe",  "maybe",  "maybe",    "maybe",     "maybe"),
    "status 1, reset":     ("no",      "no",     "no",     "no",       "no",        "no"),
    "end of file, status 0":("yes",     "maybe",  "yes",    "yes",      "yes",       "yes"),
    "end of file, status 1":("no",      "no",     "no",     "no",       "no",        "no"),
    "end of file, reset":  ("maybe",   "maybe",  "maybe",  "maybe",    "maybe",     "maybe"),
    "goodbye":             ("maybe",   "maybe",  "maybe",  "maybe",    "maybe",     "maybe"),
    "hang up":             ("maybe",   "maybe",  "maybe",  "maybe",    "maybe",     "maybe"),
    "late FAILURE, silence":("no",      "no",     "no",     "no",       "no",        "no"),
    "late FAILURE, reset": ("no",      "no",     "no",     "no",       "no",        "no"),
    "late SUCCESS, silence":("maybe",   "maybe",  "maybe",  "maybe",    "maybe",     "maybe"),
    "late SUCCESS, reset": ("maybe",   "maybe",  "maybe",  "maybe",    "maybe",     "maybe"),
    "our end, close":      ("maybe",   "maybe",  "maybe",  "maybe",    "maybe",     "yes"),
    "our end, reset":      ("maybe",   "maybe",  "maybe",  "maybe",    "maybe",     "maybe"),
    "our end, silence":    ("maybe",   "maybe",  "maybe",  "maybe",    "maybe",     "maybe"),
}
# fmt: on

# ---- The servers ---------------------------------------------------------------------------------


def ending(name: str, cut: Cut, clock: Clock) -> list[Step]:
    """Return what a server does after the text of the cut.

    Where something must come in time, the client has received what came before it. The script ends
    its side only after a whole line; who waits for that in vain is silent.
    """
    received, silence = wait_until_received, [wait_until_received, clock.time_is_up]
    ends_side = cut.kind in ("one line", "two lines", "all")
    our_end = [wait_for_end_of_file] if ends_side else [*silence, FOREVER]
    late = [wait_for_end_of_file if ends_side else received, clock.nine_seconds_later]
    late += [0.05] if ends_side else []  # long enough to be taken for an end, if that were one
    rest = SUCCESS[len(cut.text) :]
    endings = {
        "status 0": [status(0), end_of_file, close],
        "status 0, and open": [status(0)],
        "status 0, reset": [status(0), received, reset],
        "status 0, hang up": [status(0), received, hang_up],
        "status 1": [status(1), end_of_file, close],
        "status 1, reset": [status(1), received, reset],
        "close": [close],
        "end of file": [end_of_file],
        "end of file, status 0": [end_of_file, received, status(0), close],
        "end of file, status 1": [end_of_file, received, status(1), close],
        "end of file, reset": [end_of_file, received, reset],
        "reset": [received, reset],
        "goodbye": [goodbye],
        "hang up": [hang_up],
        "silence": silence,
        "late FAILURE": [*late, FAILURE, close],
        "late FAILURE, silence": [*late, FAILURE, *silence],
        "late FAILURE, reset": [*late, FAILURE, received, reset],
        "late SUCCESS": [*late, rest, close],
        "late SUCCESS, silence": [*late, rest, *silence],
        "late SUCCESS, reset": [*late, rest, received, reset],
        "our end, status 0": [*our_end, status(0), close],
        "our end, close": [*our_end, close],
        "our end, reset": [*our_end, received, reset],
        "our end, silence": [*our_end, *silence],
    }
    return endings[name]


# What the script waits for in vain is short; for all else it has time, also on a slow computer.
IN_VAIN = {"end of file": "LATE_STATUS_SECONDS", "status 0, and open": "LATE_OUTPUT_SECONDS"}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    clock.use(monkeypatch)
    limits = {"TICK": 0.01, "SECONDS_OF_SILENCE": 0.03}
    limits.update(LATE_OUTPUT_SECONDS=60.0, LATE_STATUS_SECONDS=60.0)
    for name, seconds in limits.items():
        monkeypatch.setattr(webbridge_restart, name, seconds, raising=False)
    return clock


def told(log: list[str], server: MMP) -> str:
    """Take what the log says of a server from its beginning, and return what that means."""
    first = log.pop(0)
    if first == restarted(server):
        return "yes"
    assert first == f"Failed to restart webbridge on server {server.address}. Error:"
    return "maybe" if MAYBE in log.pop(0) else "no"


ROWS = [
    *(pytest.param(name, EVERY_CUT, row, id=name) for name, row in AT_EVERY_CUT.items()),
    *(
        pytest.param(name, A_CUT_OF_EACH_KIND, row, id=name)
        for name, row in ONCE_FOR_EACH_KIND.items()
    ),
]


def assert_told(
    run: Run, known_hosts: Path, servers: list[MMP], texts: list[bytes], expected: list[str]
) -> None:
    """Run on the servers, which send these texts; what is logged of each must be as expected."""
    with contextlib.ExitStack() as stack:
        for server in servers:
            stack.enter_context(server)
        known_hosts.write_text("".join(f"{server.known_hosts_line}\n" for server in servers))
        ran = run(servers)
    log = list(ran.log)
    seen = zip(texts, [told(log, server) for server in servers], expected)
    assert [each for each in seen if each[1] not in each[2].split(" or ")] == []
    assert log == []
    assert ran.status == (0 if set(expected) == {"yes"} else 1)
    assert all(server.commands == ["webbridge restart"] for server in servers)
    assert all(server.passwords == [PASSWORD] for server in servers)


@pytest.mark.parametrize(("name", "cuts", "row"), ROWS)
def test_reply_that_is_cut_and_ended(
    name: str,
    cuts: list[Cut],
    row: tuple[str, ...],
    run: Run,
    clock: Clock,
    known_hosts: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if name in IN_VAIN:
        monkeypatch.setattr(webbridge_restart, IN_VAIN[name], 0.01, raising=False)
        monkeypatch.setattr(webbridge_restart, "HANG_UP_SECONDS", 0.01)  # the connection lives
    servers = [MMP(restart=[cut.text, *ending(name, cut, clock)]) for cut in cuts]
    expected = [row[KINDS.index(cut.kind)] for cut in cuts]
    assert_told(run, known_hosts, servers, [cut.text for cut in cuts], expected)


# ---- Without the reply to the request for the command --------------------------------------------

# A restart about which nothing was said is not confirmed then.
# fmt: off
TEXTS =                        ("nothing", "one line", "all")
WITHOUT_REPLY = {
    ("last", "status 0"):      ("maybe",   "yes",      "yes"),  # as Conch does it
    ("last", "status 1"):      ("no",      "no",       "no"),
    ("last", "close"):         ("no",      "maybe",    "yes"),
    ("never", "status 0"):     ("maybe",   "yes",      "yes"),
    ("never", "reset"):        ("maybe",   "maybe",    "maybe"),
    ("never", "hang up"):      ("maybe",   "maybe",    "maybe"),
    ("never", "goodbye"):      ("maybe",   "maybe",    "maybe"),
    ("never", "silence"):      ("maybe",   "maybe",    "maybe"),
}
# fmt: on


@pytest.mark.parametrize("case", WITHOUT_REPLY, ids=", ".join)
def test_reply_to_the_request_is_last_or_none(
    case: tuple[str, str], run: Run, clock: Clock, known_hosts: Path
) -> None:
    reply, end = case
    cuts = [cut for cut in CUTS if cut.kind in TEXTS]
    servers = [MMP(reply=reply, restart=[cut.text, *ending(end, cut, clock)]) for cut in cuts]
    texts = [cut.text for cut in cuts]
    assert_told(run, known_hosts, servers, texts, list(WITHOUT_REPLY[case]))


ENDS_OF_A_REFUSAL = ["open", "status 0", "close", "reset"]


@pytest.mark.parametrize("end", [[], [status(0), close], [close], [reset]], ids=ENDS_OF_A_REFUSAL)
def test_refusal_confirms_nothing(
    end: list[Step], run: Run, clock: Clock, known_hosts: Path
) -> None:
    """ProFTPD refuses and still sends status 0. The client may go before it has seen that."""
    expected = "no or maybe" if end else "no"
    assert_told(run, known_hosts, [MMP(reply="refused", restart=end)], [b""], [expected])
