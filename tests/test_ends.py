"""The reply to a restart, cut at every place and ended in every way, over real SSH.

Only the end of an answer tells that it is whole. So Cisco's reply is cut after every line, and
after every byte of its first line, and ended in the ways that servers and networks have. A row is
one run of main() on one server for each cut.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

import pytest

import webbridge_restart
from conftest import DOUBT, Clock, Run, restarted
from mmp import MMP, PASSWORD
from steps import (
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

CLOCK = Clock()
FIRST, SECOND, _ = SUCCESS.splitlines(keepends=True)
COLON = FIRST.index(b":")
CUTS = {  # "a word" and "a part" are less than the first line
    "nothing": [b""],
    "a word": [FIRST[:size] for size in range(1, COLON + 1)],
    "a part": [FIRST[:size] for size in range(COLON + 1, len(FIRST))],
    "one line": [FIRST],
    "two lines": [FIRST + SECOND],
    "all": [SUCCESS],
}

# ---- What servers do after the text, and what must be logged -------------------------------------

FAILURE = b"\nFAILURE: Webbridge configuration not complete\n"
# Where something must come in time, the client has received what came before it.
RECEIVED = wait_until_received
SILENCE: list[Step] = [RECEIVED, CLOCK.time_is_up]
LATE: list[Step] = [RECEIVED, CLOCK.nine_seconds_later]
# Long enough to be taken for an end, if that were one
OUR_END: list[Step] = [wait_for_end_of_file, CLOCK.nine_seconds_later, 0.05]


class End(NamedTuple):
    """A row: what comes after the text, and what is logged of each cut.

    "yes": restarted. "no": failed, without doubt. "maybe": failed, may or may not have happened.
    "-": there is nothing to try, as the script ends its side only after a whole line.
    """

    name: str
    steps: Sequence[Step]
    told: str


# fmt: off
AT_EVERY_BYTE = [
    #                                                      nothing a word part  one   two   all
    End("status 0", [status(0), end_of_file, close],       "yes    maybe  yes   yes   yes   yes"),
    End("status 1", [status(1), end_of_file, close],       "no     no     no    no    no    no"),
    End("status 0, reset", [status(0), RECEIVED, reset],   "maybe  maybe  maybe maybe maybe maybe"),
    End("close", [close],                                  "maybe  maybe  maybe maybe maybe yes"),
    End("end of file", [end_of_file],                      "maybe  maybe  maybe maybe maybe yes"),
    End("reset", [RECEIVED, reset],                        "maybe  maybe  maybe maybe maybe maybe"),
    End("silence", SILENCE,                                "maybe  maybe  maybe maybe maybe maybe"),
    End("late FAILURE", [*LATE, FAILURE, close],           "no     no     no    no    no    no"),
]
ONCE = [
    End("status 0, and open", [status(0)],                 "yes    maybe  yes   yes   yes   yes"),
    End("status 1, reset", [status(1), RECEIVED, reset],   "no     no     no    no    no    no"),
    End("end of file, status 0", [end_of_file, RECEIVED, status(0), close],
                                                           "yes    maybe  yes   yes   yes   yes"),
    End("end of file, status 1", [end_of_file, RECEIVED, status(1), close],
                                                           "no     no     no    no    no    no"),
    End("end of file, reset", [end_of_file, RECEIVED, reset],
                                                           "maybe  maybe  maybe maybe maybe maybe"),
    End("goodbye", [goodbye],                              "maybe  maybe  maybe maybe maybe maybe"),
    End("hang up", [hang_up],                              "maybe  maybe  maybe maybe maybe maybe"),
    End("FAILURE, silence", [FAILURE, *SILENCE],           "no     no     no    no    no    no"),
    End("FAILURE, reset", [FAILURE, RECEIVED, reset],      "no     no     no    no    no    no"),
    End("late SUCCESS", [*LATE, b"\n", SUCCESS, close],    "yes    yes    yes   yes   yes   yes"),
    End("our end, status 0", [*OUR_END, status(0), close], "-      -      -     yes   yes   yes"),
    End("our end, close", [*OUR_END, close],               "-      -      -     maybe maybe yes"),
    End("our end, reset", [*OUR_END, reset],               "-      -      -     maybe maybe maybe"),
    End("our end, silence", [*OUR_END, *SILENCE],          "-      -      -     maybe maybe maybe"),
    End("our end, FAILURE", [*OUR_END, FAILURE, close],    "-      -      -     no    no    no"),
    End("our end, SUCCESS", [*OUR_END, SUCCESS, close],    "-      -      -     yes   yes   yes"),
]
# Where the reply to the request for the command comes last or never, a restart about which nothing
# was said is not confirmed.
LAST = [
    End("reply last, status 0", [status(0), close],        "maybe  -      -     yes   -     yes"),
    End("reply last, status 1", [status(1), close],        "no     -      -     no    -     no"),
    End("reply last, close", [close],                      "no     -      -     maybe -     yes"),
]
NEVER = [
    End("no reply, status 0", [status(0), close],          "maybe  -      -     yes   -     yes"),
    End("no reply, reset", [RECEIVED, reset],              "maybe  -      -     maybe -     maybe"),
    End("no reply, hang up", [hang_up],                    "maybe  -      -     maybe -     maybe"),
    End("no reply, goodbye", [goodbye],                    "maybe  -      -     maybe -     maybe"),
    End("no reply, silence", SILENCE,                      "maybe  -      -     maybe -     maybe"),
]
REFUSED = [
    # ProFTPD refuses and still sends status 0. The client may go before it has seen that.
    End("refused", [],                                     "no     -      -     -     -     -"),
    End("refused, status 0", [status(0), close],           "no/maybe -    -     -     -     -"),
    End("refused, close", [close],                         "no/maybe -    -     -     -     -"),
    End("refused, reset", [reset],                         "no/maybe -    -     -     -     -"),
]
# fmt: on
ROWS = {"first": [*AT_EVERY_BYTE, *ONCE], "last": LAST, "never": NEVER, "refused": REFUSED}


# What never comes is waited for shortly: a status, an output, the loss of a live connection.
# All else has time, also on a slow computer.
LIMITS = {
    "status 0, and open": {"LATE_OUTPUT_SECONDS": 0.01, "HANG_UP_SECONDS": 0.1},
    "end of file": {"LATE_STATUS_SECONDS": 0.01, "HANG_UP_SECONDS": 0.01},
    "late FAILURE": {"HANG_UP_SECONDS": 0.1},
    "late SUCCESS": {"HANG_UP_SECONDS": 0.1},
    "our end, status 0": {"HANG_UP_SECONDS": 0.1},
    "our end, close": {"HANG_UP_SECONDS": 0.1},
    "our end, SUCCESS": {"HANG_UP_SECONDS": 0.1},
    "our end, FAILURE": {"HANG_UP_SECONDS": 0.1},
}
USUAL_LIMITS = {
    "TICK": 0.01,
    "SECONDS_OF_SILENCE": 0.03,
    "LATE_OUTPUT_SECONDS": 60.0,
    "LATE_STATUS_SECONDS": 60.0,
}


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
def test_reply_that_is_cut_and_ended(
    reply: str, end: End, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    CLOCK.use(monkeypatch)
    for name, seconds in {**USUAL_LIMITS, **LIMITS.get(end.name, {})}.items():
        monkeypatch.setattr(webbridge_restart, name, seconds)
    expected = []
    for texts, told in zip(CUTS.values(), end.told.split()):
        cuts = texts if end in AT_EVERY_BYTE else texts[-1:]
        expected += [(text, told) for text in cuts if told != "-"]
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(MMP(restart=[text, *end.steps], reply=reply))
            for text, _ in expected
        ]
        ran = run(servers)
    log = list(ran.log)
    seen = [(*row, meaning(log, server)) for row, server in zip(expected, servers)]
    assert [row for row in seen if row[2] not in row[1].split("/")] == []
    assert log == []
    assert ran.status == (0 if {told for _, told in expected} == {"yes"} else 1)
    assert all(server.commands == ["webbridge restart"] for server in servers)
    assert all(server.passwords == [PASSWORD] for server in servers)
