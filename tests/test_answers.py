"""How an answer is judged: a table of texts and exit statuses, without SSH and without mocks.

Here stands what counts as a success, as a failure, as neither, and how text that a server sent gets
into the log. How an answer comes over SSH, in pieces or with no end, is in test_faults.py.
"""

from __future__ import annotations

import time

import pytest

from webbridge_restart import (
    MAX_SHOWN_CHARACTERS,
    WHOLE_REPLY,
    Answer,
    Refused,
    Trouble,
    judge_check,
    judge_restart,
    printable,
    show_answer,
)

NO_STATUS = -1
FORGED = "2026-01-01 02:00:00.000000+00:00 Webbridge on server: 10.0.0.9 restarted successfully"
NO_WEB_BRIDGE = " CMS 3.0 and newer have no Web Bridge 2."
ENDED = "The answer ended without exit status or SUCCESS, after: {}."
NOT_ENABLED = "The server does not say that its Web Bridge is enabled, but: {}"


def short(sent: bytes | str) -> str:
    """Return a name for a row of a table."""
    return ascii(sent)[:40]


# ---- A restart -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"SUCCESS: Webbridge restarted\n", 0),
        (b"SUCCESS: Webbridge restarted", NO_STATUS),
        (b"", 0),
        (b"odd but done", 0),
        (b"SUCCESS: a\nSUCCESS: b\n", NO_STATUS),
        (b"\n\n  SUCCESS: a\n\n", NO_STATUS),
        (b"\tSUCCESS: a", NO_STATUS),
        (b"webbridge restart\nSUCCESS: a\n> ", NO_STATUS),
        (b"SUCCESS: done\nErrors: 0\n", 0),
        (b"SUCCESS: done\nErrors: 0\n", NO_STATUS),
        (b"FAILURES: 0\n", 0),
        (b"failure_count 0\n", 0),
        (b"Error-free\n", 0),
        (b"ERRORLEVEL 0\n", 0),
        (b"Unknown commands: 0\n", 0),
        (b"no FAILURE of the ERROR kind\n", 0),
        (b"SUCCESS: no error\n", 0),
        (b"0 ERROR\n", 0),
        (b"a" * 100 + b"> error: none\n", 0),
        (b"SUCCESS: no failure: none\n", 0),
    ],
)
def test_restarted(text: bytes, status: int) -> None:
    judge_restart(Answer(text, status))


SAID = [
    (b"FAILURE: no\n", "FAILURE: no"),
    (b"FAILURE: no", "FAILURE: no"),
    (b"FAILURE", "FAILURE"),
    (b"failure: no", "failure: no"),
    (b"SUCCESS: a\nFAILURE: b", "FAILURE: b"),
    (b"FAILURE: b\nSUCCESS: a\n", "FAILURE: b | SUCCESS: a"),
    (b"acano> FAILURE: no\n", "FAILURE: no"),
    (b"cms1> error: b\n", "error: b"),
    (b"SUCCESS: stopped FAILURE: not started\n", "FAILURE: not started"),
    (b"\x1b[?2004h\x1b]0;cms1\x07FAILURE: no\n", "FAILURE: no"),
    (b"webbridge: FAILURE: no", "FAILURE: no"),
    (b"cms1# Unknown command: a", "Unknown command: a" + NO_WEB_BRIDGE),
    (b"SUCCESS: a\nadmin@cms1:~$FAILURE: b", "FAILURE: b"),
    (b"y" * 99 + b"#\tFAILURE: no", "FAILURE: no"),
    (b"FAILURE: a\nERROR: b\n", "FAILURE: a | ERROR: b"),
    (b"Errors: 0\nError: b\n", "Error: b"),
    (b"ERROR\n", "ERROR"),
    (b"ERROR 7", "ERROR 7"),
    (b"  ERROR: b\n", "ERROR: b"),
    (b"SUCCESS: a\n> error: b\n", "error: b"),
    (b"*** [ERROR] b", "ERROR] b"),
    (b"\x1b[1;31mFAILURE: no\x1b[0m\n", r"FAILURE: no\x1b[0m"),
    (b"\x1b[2J\x1b[31m> FAILURE: no", "FAILURE: no"),
    (b"\xff\xfeFAILURE: no", "FAILURE: no"),
    (b"-" * 99 + b"FAILURE: no", "FAILURE: no"),
    (b"x" * 70_000 + b"\nFAILURE: late\n", "FAILURE: late"),
    (b"\xff" * 70_000 + b"\nFAILURE: late\n", "FAILURE: late"),
    (b"FAILURE: caf\xc3\xa9 caf\xe9", r"FAILURE: café caf\xe9"),
    (b"FAILURE: " + b"x" * 1000, f"FAILURE: {'x' * 291}..."),
    (f"FAILURE: x\n{FORGED}\n".encode(), f"FAILURE: x | {FORGED}"),
    (b"Unknown command: webbridge\n", "Unknown command: webbridge" + NO_WEB_BRIDGE),
    (b"> unknown command\n", "unknown command" + NO_WEB_BRIDGE),
    (b"ERROR: b\nUnknown command\n", "ERROR: b | Unknown command" + NO_WEB_BRIDGE),
]


@pytest.mark.parametrize("status", [0, NO_STATUS])
@pytest.mark.parametrize(("text", "said"), SAID, ids=short)
def test_failure_line(text: bytes, said: str, status: int) -> None:
    """It counts whatever the exit status says, and for a check as well."""
    for judge in (judge_restart, judge_check):
        with pytest.raises(Refused) as refused:
            judge(Answer(text, status))
        assert str(refused.value) == f"The server answered: {said}"


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        (b"SUCCESS: a\n", 1, "SUCCESS: a (exit status 1)"),
        (b"SUCCESS: a\nFAILURE: b\n", 1, "FAILURE: b (exit status 1)"),
        (b"", 255, "nothing (exit status 255)"),
        (b" \n\n", 1, "nothing (exit status 1)"),
        (b"", 4294967295, "nothing (exit status 4294967295)"),
        (b"y" * 400, 1, f"{'y' * 300}... (exit status 1)"),
        (b"Unknown command: a\n", 1, f"Unknown command: a (exit status 1){NO_WEB_BRIDGE}"),
        (f"x\n{FORGED}".encode(), 1, f"x | {FORGED} (exit status 1)"),
    ],
)
def test_exit_status_above_0(text: bytes, status: int, said: str) -> None:
    for judge in (judge_restart, judge_check):
        with pytest.raises(Refused) as refused:
            judge(Answer(text, status))
        assert str(refused.value) == f"The server answered: {said}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "nothing"),
        (b"\n \n", "nothing"),
        (b"ok\n", "ok"),
        (b"SUCCES", "SUCCES"),
        (b"SUCCESS", "SUCCESS"),
        (b"success: a", "success: a"),
        (b"> SUCCESS: a", "> SUCCESS: a"),
        (b"no SUCCESS: here", "no SUCCESS: here"),
        (b"Errors: 0\n", "Errors: 0"),
        (b"\x1b[2J\x1b]0;owned\x07", r"\x1b[2J\x1b]0;owned\x07"),
        (f"x\n{FORGED}\n".encode(), f"x | {FORGED}"),
    ],
)
def test_neither_success_nor_failure(text: bytes, said: str) -> None:
    """Nobody knows whether the restart happened, so this is not the server's clear no."""
    with pytest.raises(Trouble) as trouble:
        judge_restart(Answer(text, NO_STATUS))
    assert str(trouble.value) == ENDED.format(said)
    assert not isinstance(trouble.value, Refused)


# ---- A check -------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [0, NO_STATUS])
@pytest.mark.parametrize(
    "text",
    [
        b"Enabled                 : true\nInterface whitelist     : a:443\n",
        b"Interface whitelist     : a:443\n  Enabled : true",
        b"Enabled:true",
        b"ENABLED\t:\tTRUE\n",
        b"Enabled : true\nErrors : 0\n",
    ],
)
def test_enabled(text: bytes, status: int) -> None:
    judge_check(Answer(text, status))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "nothing"),
        (b"Enabled                 : false\n", "Enabled                 : false"),
        (b"Enabled : false\nTrace : true\n", "Enabled : false | Trace : true"),
        (b"Enabled :\ntrue\n", "Enabled : | true"),
        (b"Enabled : truely\n", "Enabled : truely"),
        (b"Not Enabled : true\n", "Not Enabled : true"),
        (b"SUCCESS: a\n", "SUCCESS: a"),
        (b"x" * 400, f"{'x' * 300}..."),
        (f"x\r{FORGED}".encode(), f"x | {FORGED}"),
    ],
)
def test_not_enabled(text: bytes, said: str) -> None:
    with pytest.raises(Refused) as refused:
        judge_check(Answer(text, 0))
    assert str(refused.value) == NOT_ENABLED.format(said)


# ---- A whole reply -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        b"SUCCESS: a\n",
        b"SUCCESS: a\r",
        b"SUCCESS:\n",
        b"FAILURE: b\r\n",
        b"\t FAILURE: b\n",
        b"webbridge restart\r\nSUCCESS: a\r\n> ",
        b"SUCCESS: a\nSUCCESS: b",
        b"> \rSUCCESS: a\r",
    ],
)
def test_whole_reply(text: bytes) -> None:
    """After one of these and a silence, the script ends its side."""
    assert WHOLE_REPLY.search(text)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"SUCCESS: a",
        b"SUCCESS\n",
        b"success: a\n",
        b"no SUCCESS: here\n",
        b"Restarting\nSUCCESS: Webbr",
        b"ERROR: b\n",
    ],
)
def test_no_whole_reply(text: bytes) -> None:
    assert not WHOLE_REPLY.search(text)


# ---- Text in the log -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        (b"", ""),
        (b" a  b ", "a  b"),
        (b"a\n\n  b\r\nc\rd", "a | b | c | d"),
        ("a\x0bb\x0cc\x1cd\x1de\x1ef\x85g\u2028h\u2029i", "a | b | c | d | e | f | g | h | i"),
        (b"a\tb\0c\x08d\x7fe", r"a\tb\x00c\x08d\x7fe"),
        (b"\x1b[2J\x1b]0;owned\x07", r"\x1b[2J\x1b]0;owned\x07"),
        ("\x9b2J", r"\x9b2J"),
        ("a\u202eb\u200bc\ufeffd", r"a\u202eb\u200bc\ufeffd"),  # they turn, hide and mark text
        ("a\xa0b\U000e0041", r"a\xa0b\U000e0041"),
        (b"caf\xe9 \xff\xfe", r"caf\xe9 \xff\xfe"),
        ("\udc80", r"\udc80"),  # what Python makes of a byte that is not UTF-8
        ("café 漢字 🎉", "café 漢字 🎉"),
        (r"C:\new 'a' \"b\"", r"C:\new 'a' \"b\""),
        ("x" * 300, "x" * 300),
        ("x" * 301, "x" * 300 + "..."),
        (b"\n" + b"x\n" * 100, "x | " * 75 + "..."),
        (b"\xff" * 75, r"\xff" * 75),
        (b"\xff" * 76, r"\xff" * 75 + "..."),
        ("\x1b" * 76, r"\x1b" * 75 + "..."),
    ],
    ids=short,
)
def test_printable(sent: bytes | str, shown: str) -> None:
    assert printable(sent) == shown


@pytest.mark.parametrize("sent", [bytes(range(256)) * 4, "".join(map(chr, range(0x3000))) * 2])
def test_printable_is_one_short_line_of_printable_characters(sent: bytes | str) -> None:
    step = 60
    for start in range(0, len(sent), step):
        shown = printable(sent[start : start + step])
        assert shown.isprintable()
        assert len(shown.splitlines()) <= 1
        assert len(shown) <= MAX_SHOWN_CHARACTERS + len("...")


# ---- Texts that are made to take long ------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b" ",
        b" \n",
        b"-" * 99 + b"\n",
        b"\x1b[1m",
        b"\x1b[;;;;;;;;;",
        b"\x1b[1m" * 24 + b"\n",
        b"ERROR-",
        b"Enabled",
        b"\xff",
    ],
    ids=short,
)
def test_judging_ends_soon(line: bytes) -> None:
    """With a pattern that has no bounds, some of these take hours."""
    text = line * ((1 << 20) // len(line))
    began = time.monotonic()
    for judge in (judge_restart, judge_check):
        with pytest.raises(Trouble):
            judge(Answer(text, NO_STATUS))
    assert WHOLE_REPLY.search(text) is None
    assert time.monotonic() - began < 30


def test_beginning_of_a_great_answer_is_shown() -> None:
    assert show_answer(b"a\n" + b"x" * (1 << 20)) == f"a | {'x' * 296}..."
