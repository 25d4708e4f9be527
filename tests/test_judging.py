"""How an answer is judged: tables of texts, exit statuses and ends, without SSH and without mocks.

Nothing but this decides whether a restart is told as one. How an answer comes over SSH, in pieces
or with no end, is in test_ends.py.
"""

from __future__ import annotations

import time

from conftest import CISCO, DOUBT
from webbridge_restart import Answer, judge_check, judge_restart, one_line

ALL = CISCO.encode()
PAIR, VERIFIED, ENABLED = ALL.splitlines(keepends=True)
CERTIFICATES = PAIR + VERIFIED  # what comes before the Web Bridge is stopped and started
SETTINGS = b"Enabled                 : true\nInterface whitelist     : a:443\n"
ANSWERED = "The server answered:"
UNCONFIRMED = "The answer does not confirm the restart:"
NO_WEB_BRIDGE = ". CMS 3.0 and newer have no Web Bridge 2. Take this server out of WEBBRIDGES."
CUT = "The connection broke off in the answer."


def came(text: bytes, status: int | None, cut: str = "", accepted: bool = True) -> Answer:
    """Return an answer: why its end was not seen, and whether the server replied that it runs."""
    return Answer(text, status, accepted, cut)


# ---- When a restart is confirmed: more rows are in TOLD, and in the reply that is cut ------------

HALF_WAY = (b"disabled\n", b"not enabled", b"Stopped.\n", b"cannot start\n", b"start FAILED\n")
RESTARTED = [
    came(ALL, 0),
    came(b"\n \n", 0),
    came(b"\n\n\t SUCCESS: a", 0),
    came(b"webbridge restart\n" + ALL + b"> ", 0),
    came(b"Failure to comply is prosecuted.\nError-free since 2019.\n" + ALL, 0),
    came(ALL + b"FAILURES: 0\nERRORLEVEL 0\nUnknown commands: 0\n0 ERROR\n", 0),
    came(CERTIFICATES + b"SUCCESS: Webbridge notified, 0 failures\n", 0),
    came(b"SUCCESS: Webbridge disabled\n" + ENABLED, 0),
    came(ALL, 0, accepted=False),
    came(ALL, None, accepted=False),
    came(b"  SUCCESS: the Web Bridge was restarted", None),
]
FAILED = [  # whatever else comes or breaks
    came(b"FAILURE: no", None, CUT),
    came(b"FAILURE: no\n" + ALL, 0),
    came(b"SUCCESS: stopped FAILURE: not started\n", 0),
    came(b"x" * 70_000 + b"\nFAILURE: late\n", 0, CUT),
    came(ALL + b"\t ERROR: no\n", None, CUT),
    came(ALL + b"ERROR 5\n", 0),
    came(CERTIFICATES + b"Error: Webbridge not started\n", 0),
    came(CERTIFICATES + b"FAILED: no port\n", 0),
    came(CERTIFICATES + b"\tFailure: no port\n", 0),
    came(b"SUCCESS: Webbridge disabled\n", 1),
    came(b"", 4294967295, CUT),
]
IN_DOUBT = [
    came(ALL, 1),  # it contradicts itself
    came(ENABLED + b"FAILURE: no\n", 255, CUT),
    # its end was not seen
    came(ALL, None, CUT),
    came(b"", 0, CUT),
    came(b"", None, CUT, accepted=False),
    # it ended, and confirms nothing
    came(b"", 0, accepted=False),
    *(came(CERTIFICATES + b"SUCCESS: Webbridge " + end, 0) for end in HALF_WAY),
    *(came(CERTIFICATES + b"SUCCESS: Webbridge " + end, None) for end in HALF_WAY),
    *(came(ENABLED + b"SUCCESS: Webbridge disabled\n", status) for status in (0, None)),
    came(b"SUCCESS: Webbridge unrestarted\nSUCCESS: Webbridge startedness\n", None),
    came(b"Webbridge enabled\nno SUCCESS: Webbridge enabled\n", None),
    came(b"not enabled\nCommand not permitted\nNo error: a\nsuccess: a\nSUCCES", 0),
]


def test_when_a_restart_is_confirmed() -> None:
    rows = ((RESTARTED, (True, False)), (FAILED, (False, False)), (IN_DOUBT, (False, True)))
    for answers, meaning in rows:
        for answer in answers:
            verdict = judge_restart(answer)
            assert (verdict.is_success, verdict.in_doubt) == meaning, answer


def test_reply_that_is_cut_at_any_place() -> None:
    """Without an exit status, only all of it confirms the restart; with one, its first word."""
    for size in range(len(ALL) - 1):  # without the last end of line, all has been said
        assert judge_restart(came(ALL[:size], None)).in_doubt, size
        is_told = size == 0 or size >= len("SUCCESS:")
        assert judge_restart(came(ALL[:size], 0)).is_success == is_told, size


TOLD = {
    came(ALL, 0): CISCO.strip().replace("\n", " | "),
    came(b"", 0): "nothing",
    came(PAIR + b"FAILURE: b\nc", 0): f"{ANSWERED} FAILURE: b | c",
    came(b"y\n", 2, CUT): f"{ANSWERED} y (exit status 2)",
    came(ENABLED, 1): f"{ANSWERED} SUCCESS: Webbridge enabled (exit status 1). {DOUBT}",
    came(b"Unknown command: a\n", 0): f"{ANSWERED} Unknown command: a{NO_WEB_BRIDGE}",
    came(b"", None, accepted=False): "The server refused to run the command.",
    came(b"", None, CUT): f"{CUT} {DOUBT}",
    came(b"a\n", 0, CUT): f"{CUT} It had answered: a. {DOUBT}",
    came(b"a\n", 0): f"{UNCONFIRMED} a (exit status 0). {DOUBT}",
    came(b"", None): f"{UNCONFIRMED} nothing (no exit status). {DOUBT}",
}


def test_what_is_told() -> None:
    assert {answer: judge_restart(answer).explain() for answer in TOLD} == TOLD


# ---- A check -------------------------------------------------------------------------------------

NOT_ENABLED = "The server does not say that its Web Bridge is enabled, but: {}"
CHECKS = {  # why a server is not ready, or "" if it is
    came(SETTINGS, 0): "",
    came(SETTINGS, None): "",
    came(b"Errors : 0\n  ENABLED\t:\tTRUE", 0): "",
    came(SETTINGS, 0, CUT): f"{CUT} It had answered: {{}}.",
    came(ALL + SETTINGS, 1): f"{ANSWERED} {{}} (exit status 1)",
    came(b"FAILURE: a\n" + SETTINGS, 0): f"{ANSWERED} {{}}",
    came(b"Unknown command\n", 1): f"{ANSWERED} {{}} (exit status 1){NO_WEB_BRIDGE}",
    came(b"Enabled                 : false\nTrace : true\n", 0): NOT_ENABLED,
    came(b"Enabled :\ntrue\nEnabled : truely\nNot Enabled : true\n", 0): NOT_ENABLED,
    came(ALL, 0): NOT_ENABLED,
}


def test_check() -> None:
    """It is never in doubt, for it changes nothing."""
    for answer, reason in CHECKS.items():
        said = (reason or "{}").format(one_line(answer.text))
        assert judge_check(answer) == (not reason, said, False)


# ---- Text in the log -----------------------------------------------------------------------------

SHOWN = {
    "\n \r\n": "nothing",
    b"caf\xc3\xa9\xe9": r"café\xe9",
    b"a  b\n\n  c\r\nd\re ": "a  b | c | d | e",
    b"\x1b[2J\x1b]0;owned\x07": r"\x1b[2J\x1b]0;owned\x07",
    # what drives a terminal, turns, hides and marks text, and what is no UTF-8 in Python
    "\x9b2J a\u202eb\u200bc\ufeffd\xa0e\U000e0041": r"\x9b2J a\u202eb\u200bc\ufeffd\xa0e\U000e0041",
    "\udc80": r"\udc80",
    r"café 漢字 🎉 C:\new 'a' \"b\"": r"café 漢字 🎉 C:\new 'a' \"b\"",
    "x" * 300: "x" * 300,
    "x" * 301: "x" * 300 + "...",
    "\x1b" * 76: r"\x1b" * 75 + "...",
}


def test_what_was_sent_as_one_line() -> None:
    assert {sent: one_line(sent) for sent in SHOWN} == SHOWN
    for number in range(0x3000):
        assert one_line(f"a{chr(number)}b").isprintable(), number


# ---- Texts that are made to take long ------------------------------------------------------------


def test_judging_ends_soon() -> None:
    """With a pattern that has no bounds, some of these take hours."""
    began = time.monotonic()
    for line in (b"\n", b" ", b" \n", b"SUCCESS: web no", b"FAILURE", b"Enabled", b"\xff"):
        text = line * (250_000 // len(line))
        for judge in (judge_restart, judge_check):
            assert not judge(came(text, None)).is_success
    assert time.monotonic() - began < 100
