"""How an answer is judged: a table of texts, exit statuses and ends, without SSH and without mocks.

Nothing but this decides whether a restart is told as one. How an answer comes over SSH, in pieces
or with no end, is in test_ends.py.
"""

from __future__ import annotations

import time

from pytest import mark

from conftest import DOUBT as CHECK_IT
from webbridge_restart import (
    MAX_ANSWER_BYTES,
    Answer,
    has_whole_reply_line,
    judge_check,
    judge_restart,
    show,
)

PAIR = b"SUCCESS: Key and certificate pair match\n"
BUNDLE = b"SUCCESS: certificate verified against CA bundle\n"
CISCO = PAIR + BUNDLE + b"SUCCESS: Webbridge enabled\n"
SETTINGS = b"Enabled                 : true\nInterface whitelist     : a:443\n"
ANSWERED = "The server answered:"
UNCONFIRMED = "The answer does not confirm the restart:"
NO_WEB_BRIDGE = ". CMS 3.0 and newer have no Web Bridge 2. Take this server out of WEBBRIDGES."

RESTARTED, FAILED, DOUBT = (True, False), (False, False), (False, True)
WHOLE, CUT = "", "The connection broke off in the answer."


def short(value: object) -> str:
    """Return a name for a row of a table, without backslashes: mutmut.cfg says why."""
    return ascii(value)[:40].replace("\\", "")


# ---- When a restart is confirmed -----------------------------------------------------------------

TABLE = [
    # the text, the exit status, whether the end was seen: what it means
    (CISCO, 0, WHOLE, RESTARTED),
    (PAIR, 0, WHOLE, RESTARTED),
    (b"", 0, WHOLE, RESTARTED),
    (b"\n \n", 0, WHOLE, RESTARTED),
    (b"\n\n\t SUCCESS: a", 0, WHOLE, RESTARTED),
    (b"webbridge restart\n" + CISCO + b"> ", 0, WHOLE, RESTARTED),
    (b"Failure to comply is prosecuted.\nError-free since 2019.\n" + CISCO, 0, WHOLE, RESTARTED),
    (CISCO + b"FAILURES: 0\nERRORLEVEL 0\nUnknown commands: 0\n0 ERROR\n", 0, WHOLE, RESTARTED),
    (CISCO, None, WHOLE, RESTARTED),
    (b"  SUCCESS: the Web Bridge was restarted", None, WHOLE, RESTARTED),
    # a failure, whatever else comes or breaks
    (b"FAILURE: no", None, CUT, FAILED),
    (CISCO + b"FAILURE: no\n", 0, WHOLE, FAILED),
    (PAIR + b"cms1> FAILURE: no\n", 0, CUT, FAILED),
    (b"FAILURE: no\n" + CISCO, 0, WHOLE, FAILED),
    (b"SUCCESS: stopped FAILURE: not started\n", 0, WHOLE, FAILED),
    (b"\x1b[1;31mFAILURE: no\x1b[0m\n", None, WHOLE, FAILED),
    (b"x" * 70_000 + b"\nFAILURE: late\n", 0, CUT, FAILED),
    (CISCO + b"ERROR: no\n", 0, WHOLE, FAILED),
    (CISCO + b"\t ERROR 7\n", None, CUT, FAILED),
    (b"Unknown command: webbridge\n", 0, WHOLE, FAILED),
    (CISCO, 1, WHOLE, FAILED),
    (b"", 4294967295, CUT, FAILED),
    # its end was not seen
    (CISCO, 0, CUT, DOUBT),
    (CISCO, None, CUT, DOUBT),
    (b"", 0, CUT, DOUBT),
    (b"", None, CUT, DOUBT),
    # it ended, and confirms nothing
    (PAIR + BUNDLE, None, WHOLE, DOUBT),
    (b"SUCCESS: Webbridge disabled\n", None, WHOLE, DOUBT),  # a restart that stopped half way
    (b"SUCCESS: Webbridge not enab", None, WHOLE, DOUBT),
    (b"SUCCESS: Webbridge unrestarted, startedness\n", None, WHOLE, DOUBT),
    (PAIR + BUNDLE + b"SUCCESS: We", None, WHOLE, DOUBT),
    (b"Webbridge enabled\nno SUCCESS: Webbridge enabled\n", None, WHOLE, DOUBT),
    (b"", None, WHOLE, DOUBT),
    (b"not enabled, nothing done\n", 0, WHOLE, DOUBT),
    (b"Command not permitted\nError: no\nsuccess: a\nSUCCES", 0, WHOLE, DOUBT),
]
NEVER_ACCEPTED = [
    # as above, where the reply to the request for the command never came
    (CISCO, 0, WHOLE, RESTARTED),
    (CISCO, None, WHOLE, RESTARTED),
    (b"", None, WHOLE, FAILED),  # refused
    (b"", 0, WHOLE, DOUBT),
    (b"", None, CUT, DOUBT),
]
ROWS = [(*row[:2], True, *row[2:]) for row in TABLE]
ROWS += [(*row[:2], False, *row[2:]) for row in NEVER_ACCEPTED]


@mark.parametrize(("text", "status", "accepted", "cut", "meaning"), ROWS, ids=short)
def test_when_a_restart_is_confirmed(
    text: bytes, status: int | None, accepted: bool, cut: str, meaning: tuple[bool, bool]
) -> None:
    verdict = judge_restart(Answer(text, status, accepted, cut))
    assert (verdict.is_success, verdict.in_doubt) == meaning


TOLD = {
    Answer(CISCO, 0, True, WHOLE): CISCO.decode().strip().replace("\n", " | "),
    Answer(b"", 0, True, WHOLE): "nothing",
    Answer(PAIR + b"FAILURE: b\nc", 0, True, WHOLE): f"{ANSWERED} FAILURE: b | c",
    Answer(b"y\n", 2, True, CUT): f"{ANSWERED} y (exit status 2)",
    Answer(b"", None, False, WHOLE): "The server refused to run the command.",
    Answer(b"", None, True, CUT): f"{CUT} {CHECK_IT}",
    Answer(b"a\n", 0, True, CUT): f"{CUT} It had answered: a. {CHECK_IT}",
    Answer(b"a\n", 0, True, WHOLE): f"{UNCONFIRMED} a (exit status 0). {CHECK_IT}",
    Answer(b"", None, True, WHOLE): f"{UNCONFIRMED} nothing (no exit status). {CHECK_IT}",
}


def test_what_is_told() -> None:
    assert {answer: judge_restart(answer).explain() for answer in TOLD} == TOLD


# ---- A check -------------------------------------------------------------------------------------

NOT_ENABLED = "The server does not say that its Web Bridge is enabled, but: {}"


@mark.parametrize(
    ("text", "status", "cut", "reason"),
    [
        (SETTINGS, 0, WHOLE, ""),
        (SETTINGS, None, WHOLE, ""),
        (b"Errors : 0\n  ENABLED\t:\tTRUE", 0, WHOLE, ""),
        (SETTINGS, 0, CUT, f"{CUT} It had answered: {{}}."),
        (SETTINGS, 1, WHOLE, f"{ANSWERED} {{}} (exit status 1)"),
        (b"FAILURE: a\n" + SETTINGS, 0, WHOLE, f"{ANSWERED} {{}}"),
        (b"Unknown command\n", 1, WHOLE, f"{ANSWERED} {{}} (exit status 1){NO_WEB_BRIDGE}"),
        (b"", 0, WHOLE, NOT_ENABLED),
        (b"Enabled                 : false\nTrace : true\n", 0, WHOLE, NOT_ENABLED),
        (b"Enabled :\ntrue\nEnabled : truely\nNot Enabled : true\n", 0, WHOLE, NOT_ENABLED),
        (CISCO, 0, WHOLE, NOT_ENABLED),
    ],
    ids=short,
)
def test_check(text: bytes, status: int | None, cut: str, reason: str) -> None:
    """It is never in doubt, for it changes nothing."""
    verdict = judge_check(Answer(text, status, True, cut))
    assert verdict == (not reason, (reason or "{}").format(show(text)), False, "")


# ---- A whole line of a reply ---------------------------------------------------------------------

WHOLE_LINES = [PAIR, b"SUCCESS:\n", b"cms1> FAILURE: b\n", b"webbridge restart\n\t SUCCESS: a\n> "]
NOT_WHOLE = [b"", b"SUCCESS: a", b"SUCCESS\n", b"no SUCCESS: here\n", b"Restarting\nSUCCESS: Webbr"]


def test_whole_line() -> None:
    """After one of these and a silence, the script ends its side."""
    assert [text for text in WHOLE_LINES + NOT_WHOLE if has_whole_reply_line(text)] == WHOLE_LINES


# ---- Text in the log -----------------------------------------------------------------------------


@mark.parametrize(
    ("sent", "shown"),
    [
        ("\n \r\n", "nothing"),
        (b" a  b ", "a  b"),
        (b"caf\xc3\xa9\xe9", r"café\xe9"),
        (b"a\n\n  b\r\nc\rd", "a | b | c | d"),
        ("a\x0bb\x0cc\x1cd\x1de\x1ef\x85g\u2028h\u2029i", "a | b | c | d | e | f | g | h | i"),
        (b"a\tb\0c\x08d\x7fe", r"a\tb\x00c\x08d\x7fe"),
        (b"\x1b[2J\x1b]0;owned\x07", r"\x1b[2J\x1b]0;owned\x07"),
        # what drives a terminal, turns, hides and marks text
        ("\x9b2J a\u202eb\u200bc\ufeffd", r"\x9b2J a\u202eb\u200bc\ufeffd"),
        ("a\xa0b\U000e0041", r"a\xa0b\U000e0041"),
        ("\udc80", r"\udc80"),  # what Python makes of a byte that is not UTF-8
        (r"café 漢字 🎉 C:\new 'a' \"b\"", r"café 漢字 🎉 C:\new 'a' \"b\""),
        ("x" * 300, "x" * 300),
        ("x" * 301, "x" * 300 + "..."),
        (b"\xff" * 76, r"\xff" * 75 + "..."),
        ("\x1b" * 76, r"\x1b" * 75 + "..."),
    ],
    ids=short,
)
def test_what_was_sent_as_one_line(sent: bytes | str, shown: str) -> None:
    assert show(sent) == shown


def test_no_character_drives_a_terminal_or_begins_a_line() -> None:
    for number in range(0x3000):
        assert show(f"a{chr(number)}b").isprintable(), number


# ---- Texts that are made to take long ------------------------------------------------------------


@mark.parametrize(
    "line",
    [b"\n", b" ", b" \n", b"\t", b"SUCCESS: web ", b"FAILURE", b"FAILURE:", b"Enabled", b"\xff"],
    ids=short,
)
def test_judging_ends_soon(line: bytes) -> None:
    """With a pattern that has no bounds, some of these take hours."""
    text = line * (MAX_ANSWER_BYTES // 4 // len(line))
    began = time.monotonic()
    for judge in (judge_restart, judge_check):
        assert not judge(Answer(text, None, True, WHOLE)).is_success
    assert not has_whole_reply_line(text)
    assert time.monotonic() - began < 30
