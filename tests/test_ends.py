"""The reply to a restart, cut and ended in every way, over real SSH.

Only the end of an answer tells that it is whole. So Cisco's reply is cut at every byte of its first
line and after each line, and ended in the ways that servers and networks have. A row is one run of
main() on one server for each cut.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

import pytest

import steps
import webbridge_restart
from conftest import DOUBT, Clock, Run, restarted
from mmp import MMP, PASSWORD
from steps import SUCCESS, Step, close, end_of_file, goodbye, hang_up, reset, status

CLOCK = Clock()
FIRST, SECOND, _ = SUCCESS.splitlines(keepends=True)
CUTS = [
    [b""],
    [FIRST[:end] for end in range(1, len("SUCCESS:"))],
    [FIRST[:end] for end in range(len("SUCCESS:"), len(FIRST))],
    [FIRST],
    [FIRST + SECOND],
    [SUCCESS],
]

# ---- What servers do after the text, and what must be logged -------------------------------------

# Where something must come in time, the client has received what came before it.
RECEIVED = steps.wait_until_received
SILENCE: list[Step] = [RECEIVED, CLOCK.time_is_up]
LATE_FAILURE: list[Step] = [RECEIVED, CLOCK.nine_seconds_later, b"\nFAILURE: b\n", close]
LATE_SUCCESS: list[Step] = [RECEIVED, CLOCK.nine_seconds_later, b"\n", SUCCESS, close]
BEHIND = steps.behind_the_end(b"\nFAILURE: b\n")


class End(NamedTuple):
    """A row: what comes after the text, and what is logged of each cut.

    "yes": restarted. "no": failed, without doubt. "maybe": failed, may or may not have happened.
    "-": not tried.
    """

    name: str
    steps: Sequence[Step]
    told: str


# fmt: off
ENDS = [
    #                                                      nothing a word part  one   two   all
    End("status 0", [status(0), end_of_file, close],       "yes    maybe  yes   yes   yes   yes"),
    End("status 1", [status(1), end_of_file, close],       "no     no     no    no    no    maybe"),
    End("status 0, reset", [status(0), RECEIVED, reset],   "maybe  maybe  maybe maybe maybe maybe"),
    End("status 1, reset", [status(1), RECEIVED, reset],   "no     no     no    no    no    maybe"),
    End("close", [close],                                  "maybe  maybe  maybe maybe maybe yes"),
    End("reset", [RECEIVED, reset],                        "maybe  maybe  maybe maybe maybe maybe"),
    End("goodbye", [goodbye],                              "maybe  maybe  maybe maybe maybe maybe"),
    End("hang up", [hang_up],                              "maybe  maybe  maybe maybe maybe maybe"),
    End("silence", SILENCE,                                "maybe  maybe  maybe maybe maybe maybe"),
    End("end of file, status 0", [end_of_file, RECEIVED, status(0), close],
                                                           "yes    maybe  yes   yes   yes   yes"),
    End("end of file, reset", [end_of_file, RECEIVED, reset],
                                                           "maybe  maybe  maybe maybe maybe maybe"),
]
# What never comes is waited for shortly: a status, an output, the loss of a live connection.
# All else has time, also on a slow computer.
LIVES_ON = [
    End("status 0, and open", [status(0)],                 "yes    maybe  yes   yes   yes   yes"),
    End("end of file", [end_of_file],                      "maybe  maybe  maybe maybe maybe yes"),
    End("late FAILURE", LATE_FAILURE,                      "no     no     no    no    no    no"),
    End("late SUCCESS", LATE_SUCCESS,                      "yes    yes    yes   yes   yes   yes"),
]
# More ways, at fewer bytes.
FEW_CUTS = [
    End("close, reset", [close, RECEIVED, reset],          "maybe  maybe  maybe maybe maybe yes"),
    End("status 0, FAILURE", [status(0), RECEIVED, b"\nFAILURE: b\n", close],
                                                           "no     no     no    no    no    no"),
    End("end of file, FAILURE, status 0", [end_of_file, RECEIVED, BEHIND, status(0), close],
                                                           "no     no     no    no    no    no"),
    End("end of file, FAILURE, close", [end_of_file, RECEIVED, BEHIND, close],
                                                           "no     no     no    no    no    no"),
]
# Where the reply to the request for the command comes last or never, a restart about which nothing
# was said is not confirmed.
REPLY_LAST = [
    End("reply last, status 0", [status(0), close],        "maybe  -      -     yes   -     yes"),
    End("reply last, close", [close],                      "no     -      -     maybe -     yes"),
]
NO_REPLY = [
    End("no reply, status 0", [status(0), close],          "maybe  -      -     yes   -     yes"),
    End("no reply, and open", [status(0), end_of_file],    "maybe  -      -     yes   -     yes"),
    End("no reply, reset", [RECEIVED, reset],              "maybe  -      -     maybe -     maybe"),
]
# fmt: on
ROWS = {"first": [*ENDS, *LIVES_ON, *FEW_CUTS], "last": REPLY_LAST, "never": NO_REPLY}


def meaning(log: list[str], server: MMP) -> str:
    """Take what the log says of a server from its beginning, and return what that means."""
    first = log.pop(0)
    if first == restarted(server):
        return "yes"
    assert first == f"Failed to restart webbridge on server {server.address}. Error:"
    return "maybe" if log.pop(0).endswith(DOUBT) else "no"


@pytest.mark.parametrize(
    ("reply", "end"),
    [pytest.param(reply, end, id=end.name) for reply in ROWS for end in ROWS[reply]],
)
def test_end(reply: str, end: End, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    CLOCK.use(monkeypatch)
    late, lost = (0.01, 0.1) if end in LIVES_ON else (60.0, 1.0)
    monkeypatch.setattr(webbridge_restart, "LATE_OUTPUT_SECONDS", late)
    monkeypatch.setattr(webbridge_restart, "LATE_STATUS_SECONDS", late)
    monkeypatch.setattr(webbridge_restart, "LOSS_SECONDS", lost)
    expected = {
        cut: told
        for cuts, told in zip(CUTS, end.told.split())
        if told != "-"
        for cut in (cuts if end in ENDS else cuts[-1:])  # a few ways, at every byte
    }
    with contextlib.ExitStack() as stack:
        servers = {
            cut: stack.enter_context(MMP(restart=[cut, *end.steps], reply=reply))
            for cut in expected
        }
        ran = run(list(servers.values()))
    log = list(ran.log)
    assert {cut: meaning(log, server) for cut, server in servers.items()} == expected
    assert log == []
    assert ran.status == (0 if set(expected.values()) == {"yes"} else 1)
    for server in servers.values():
        assert (server.commands, server.passwords) == (["webbridge restart"], [PASSWORD])
