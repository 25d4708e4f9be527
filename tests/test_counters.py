"""Counting: the counters in a log, whether they are fit to count, the sums and the conditions."""

from __future__ import annotations

import datetime
import tracemalloc
from collections.abc import Collection
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import MonkeyPatch, mark

import webbridge_restart
from remote import Remote
from webbridge_restart import (
    SCRIPT,
    Counter,
    Figures,
    Reading,
    decide,
    explain_full,
    find_problem,
    format_span,
    parse_log,
)

WEB, CALL = "Web Bridge", "Call Bridge"
BOTH = frozenset((WEB, CALL))
HOUR, MINUTE, SECOND = (datetime.timedelta(seconds=seconds) for seconds in (3600, 60, 1))
DAY = 24 * HOUR


# ---- Logs, as an MMP writes them -----------------------------------------------------------------


def utc(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(f"{text}+00:00")


NOW = utc("2026-06-20T21:16:00")  # when these logs end


def ago(minutes: float = 0) -> str:
    return f"{NOW - minutes * MINUTE:%b %d %H:%M:%S}"


def web(sessions: int, stamp: str = ago(2)) -> str:
    stats = f"[DEBUGGING] Stats {sessions}, c:3477, d:3170"
    return f"{stamp} user.info cms1 webbridge: INFO : {stats}\n"


def call(active: int, peak: int, stamp: str = ago(1)) -> str:
    stats = f'{{"callLegsPS": 1, "CMA": "{active}/{peak}", "sip": {{"std": "0/1", "peer": "6/6"}}}}'
    return f"{stamp} user.info cms1 host:server:  INFO : STATS: {stats}\n"


def end(stamp: str = ago()) -> str:
    return f"{stamp} user.info cms1 host:server:  INFO : recording device 1: available\n"


TYPED = "User admin from 10.0.0.5:50122 issued command < webbridge restart>: permission granted"


def typed(text: str = TYPED, process: str = "cli:", stamp: str = ago(1.5)) -> str:
    return f"{stamp} user.info cms1 {process} {text}\n"


def parse(
    text: str | bytes, now: datetime.datetime = NOW, wanted: Collection[str] = BOTH
) -> Reading:
    return parse_log(text.encode() if isinstance(text, str) else text, wanted, now)


def shown(reading: Reading) -> dict[str, str]:
    return {bridge: counter.shown for bridge, counter in reading.counters.items()}


# ---- Times ---------------------------------------------------------------------------------------


@mark.parametrize(
    ("stamp", "now", "expected"),
    [
        # without a year: the year that brings it nearest
        ("Jan  1 00:01:00.594", "2025-12-31T23:59:00", "2026-01-01T00:01:00"),
        ("Jul  2 00:00:00", "2026-01-01T00:00:00", "2026-07-02T00:00:00"),
        ("Jul 04 00:00:00", "2026-01-01T00:00:00", "2025-07-04T00:00:00"),
        ("Feb 29 12:00:00", "2100-02-27T00:00:00", "2096-02-29T12:00:00"),
        ("Feb 29 12:00:00", "2100-03-02T00:00:00", "2104-02-29T12:00:00"),
        # with a year: that year
        ("2024-03-05 16:50:25,736", "2026-01-01T00:00:00", "2024-03-05T16:50:25"),
        # time zones
        ("2024-03-05T16:50:25.736Z", "2026-01-01T00:00:00", "2024-03-05T16:50:25"),
        ("2024-03-05T16:50:25.736-0800", "2026-01-01T00:00:00", "2024-03-06T00:50:25"),
        ("Dec 31 23:30:00-08:00", "2026-01-01T07:31:00", "2026-01-01T07:30:00"),
        # dates and times that do not exist, and what is none
        ("Jun 31 21:15:00", "2026-06-30T00:00:00", None),
        ("2026-06-20T21:15:00+24:00", "2026-06-20T00:00:00", None),
        (" Jun 20 21:15:00", "2026-06-20T00:00:00", None),
    ],
)
def test_time_of_a_line(stamp: str, now: str, expected: str | None) -> None:
    assert parse(end(stamp), utc(now), ()).end == (utc(expected) if expected else None)


SPANS = {
    29 * SECOND: "0 min",
    31 * SECOND: "1 min",
    119 * MINUTE: "119 min",
    2 * HOUR: "2 hours",
    -26 * HOUR: "26 hours",
    2 * DAY - MINUTE: "47 hours",
    2 * DAY: "2 days",
}


def test_spans_of_time_in_words() -> None:
    assert {span: format_span(span) for span in SPANS} == SPANS


def test_age_of_a_counter_is_against_the_last_line() -> None:
    """Not against this computer's clock."""
    for counted, last, age in (
        ("Jan  1 00:01:00", "Dec 31 23:58:00", -3 * MINUTE),
        ("Feb 28 23:59:00", "2024-03-01T00:01:00", DAY + 2 * MINUTE),
        ("Jun 20 21:16:00", "2026-06-20T20:17:00-01:00", MINUTE),
    ):
        found = parse(call(1, 2, counted) + end(last), utc("2026-08-01T00:00:00"))
        assert found.counters[CALL].age == age


# ---- Lines with a counter ------------------------------------------------------------------------

STATS = '{"new": [1, {"x": null}], "CMA": "14/17", "callLegs": "20/24", "name": "\xe9"}'


@mark.parametrize(
    "line",
    [
        "Jun 20 21:16:19 user.info acanosrv02 webbridge:  INFO : [DEBUGGING] Stats 149, c:3, d:1",
        "Jun  2 21:16:19 user.info acanosrv02 webbridge:INFO:[DEBUGGING] Stats 149, c:3, d:1",
        "Feb 29 09:02:21.594 user.info CMS host:webbridge: INFO : [DEBUGING] Stats 149, c:1, d:0",
        '2024-03-05T16:50:25.736 user.info cms01 "webbridge": INFO : [DEBUGGING] Stats 149, c:1',
        "2024-03-05 16:50:25,736 local0.info cms01 “webbridge”: INFO : [DEBUGGING] Stats 149, c:1",
        "2024-03-05T16:50:25+01:00 user.info cms1 k webbridge [7] :\tINFO : [DEBUGGING] Stats 149,",
        f"Jun 20 21:16:19 user.info acanosrv02 host:server:  INFO : STATS: {STATS}",
        f"2024-03-05T16:50:25.736 user.info cms01 extra host:server: INFO : STATS:{STATS}",
        f"Jun 20 21:16:19\tuser.info\tcms01 server[99]: INFO: STATS : {STATS}",
    ],
)
def test_lines_with_a_counter(line: str) -> None:
    expected = {WEB: "149"} if "webbridge" in line else {CALL: "14/17"}
    for text in (line.encode(), f"{line}\n".encode("cp1252"), f"{line}\r\n".encode()):
        assert shown(parse(text)) == expected


TYPED_LINES = (  # of which none restarts the Web Bridge
    typed(stamp="Jun 31 21:15:00"),
    typed(TYPED.replace("granted", "denied")),
    typed(TYPED.replace("restart>", "disable>")),
    typed(TYPED.replace("webbridge", "callbridge")),
    typed(process="host:server:"),
    typed(f"User x from y typed: {TYPED}"),
)
UNREADABLE = (
    'host:server: INFO : STATS: {"CMA": "1/2/3"}',
    'host:server: INFO : STATS: {"CMA": 14}',
    'host:server: INFO : STATS: {"callLegs": "8/9"}',
    'host:server: DEBUG : STATS: {"CMA": "8/9"}',
    'webbridge: INFO : STATS: {"CMA": "8/9"}',  # of the other process
    "host:server: INFO : [DEBUGGING] Stats 8, c:1, d:1",
    "webbridge: INFO : [DEBUGGING] Stats 5000000000, c:1, d:1",
    "webbridge: INFO : [DEBUGGING] Stats 8",
    "webbridge: INFO : Stats 8, c:1, d:1",
    "webbridge: INFO : [DEBUGGING] user Stats 8, c:1, d:1",
)
FORGED = (
    "webbridge: INFO : [DEBUGGING] Stats 0, c:1, d:1",
    "Jun 20 21:16:00 user.info cms1 webbridge: INFO : [DEBUGGING] Stats 0, c:1, d:1",
    'host:server: INFO : STATS: {"CMA": "0/0"}',
    f"cli: {TYPED}",
    f"Jun 20 21:16:00 user.info cms1 cli: {TYPED}",
)
BEFORE_IT = (  # what a client or another process sent
    "host:server: INFO : guest login request: name ",
    "host:server: INFO : ",
    "host:server: INFO : chat from x: ",
    "cli: User admin from 10.0.0.5:50122 issued command <",
    "cli: ",
    "postgres [20882]:  [2-7] ",
    "x y ",
)


@mark.parametrize(
    "line",
    [
        *TYPED_LINES,
        web(8, "Jun 31 21:15:00") + call(8, 9, "Foo 20 21:15:00"),  # such dates do not exist
        web(8, "") + call(8, 9, ""),
        *(f"{ago()} user.info cms1 {line}\n" for line in UNREADABLE),
        *(f"{ago()} local0.info core1 {sent}{text}\n" for sent in BEFORE_IT for text in FORGED),
    ],
)
def test_before_a_line_that_does_not_count_the_counters_do(line: str) -> None:
    text = web(1, ago(5)) + call(1, 2, ago(5)) + web(7) + call(3, 4) + line
    assert shown(parse(text)) == {WEB: "7", CALL: "3/4"}


# ---- A restart that the log records --------------------------------------------------------------

RESTARTED = "0 (restarted since)"


@mark.parametrize(
    ("lines", "web_bridge"),
    [
        (typed(), RESTARTED),
        (typed(process="cli[77]:"), RESTARTED),
        (typed(TYPED.replace("< webbridge restart>", "<webbridge  restart >")), RESTARTED),
        (typed() + web(1, ago(1.3)) + web(2, ago(1.2)), "2"),
        (typed() + web(2, ago(1.2)) + typed(stamp=ago(0.5)), RESTARTED),
    ],
)
def test_restart_sets_an_older_counter_to_zero(lines: str, web_bridge: str) -> None:
    """The Call Bridge's counter stays."""
    reading = parse(web(149) + call(3, 4) + lines + end())
    assert shown(reading) == {WEB: web_bridge, CALL: "3/4"}
    assert reading.counters[WEB].active == int(web_bridge.split()[0])


# ---- Any text ------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [web(5), call(1, 2), end(), typed(), '{"CMA": "1/2"}', "STATS: {", "\n", ago()]
)


@given(st.lists(PIECES.map(str.encode) | st.binary(max_size=30), max_size=20).map(b"".join))
@settings(deadline=None)
def test_any_text(text: bytes) -> None:
    """The newest counters are found before and behind it."""
    reading = parse(text)
    assert set(shown(reading).values()) <= {"5", "1/2", RESTARTED}
    assert find_problem(reading, reading.counters, NOW) == "" or not reading.end
    newest, behind = (web(7) + call(3, 4)).encode(), b"x" + text.replace(b"\n", b"")
    assert shown(parse(text + b"\n" + newest + behind)) == {WEB: "7", CALL: "3/4"}


def test_very_many_short_lines_need_little_memory() -> None:
    """As objects, all at once, they would need several times as much as the text."""
    text = b"Jun 20 21:16:00\n" * 10_000
    parse(text)  # what Python loads at the first time does not count
    tracemalloc.start()
    assert parse(text).counters == {}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(text)


# ---- Fit to count, or why not --------------------------------------------------------------------

LINE = {
    WEB: '"webbridge": INFO : [DEBUGGING] Stats 149, c:3477, d:3170',
    CALL: 'host:server: INFO : STATS: {"callLegsPS": 1, "CMA": "14/17"}',
}
NO_COUNTER = "No {} counter in the last 16 MiB of the log (such a line has: {})."
NO_TIME = "No line in the last 16 MiB of the log begins with a time."
NO_WEB = f"{NO_COUNTER.format(WEB, LINE[WEB])} Check that this server runs a Web Bridge 2."
NO_CALL = NO_COUNTER.format(CALL, LINE[CALL])
HINT = (
    " CMS 2.8 and newer log it. If other servers run the Call Bridges, list all of those in "
    "CALLBRIDGES."
)
OLD, AHEAD = NOW - 26 * HOUR - SECOND, NOW + 26 * HOUR + SECOND
OLD_THERE = OLD.astimezone(datetime.timezone(14 * HOUR))  # its own time is what is told
ENDS = "The log ends on 2026-06-"


def too_old(bridge: str, age: str) -> str:
    return f"The newest {bridge} counter is too old: it was logged {age} the log's end."


@mark.parametrize(
    ("ended", "web_age", "call_age", "wanted", "problem"),
    [
        (None, None, None, BOTH, NO_TIME),
        (NOW - 26 * HOUR, DAY, 15 * MINUTE, BOTH, ""),
        (NOW + 26 * HOUR, -DAY, -15 * MINUTE, BOTH, ""),
        (OLD, MINUTE, MINUTE, BOTH, f"{ENDS}19 19:15:59, 26 hours ago."),
        (OLD_THERE, MINUTE, MINUTE, BOTH, f"{ENDS}20 09:15:59, 26 hours ago."),
        (AHEAD, MINUTE, MINUTE, BOTH, f"{ENDS}21 23:16:01, 26 hours from now; check both clocks."),
        (NOW, DAY + SECOND, MINUTE, BOTH, too_old(WEB, "24 hours before")),
        (NOW, MINUTE, 15 * MINUTE + SECOND, BOTH, too_old(CALL, "15 min before")),
        (NOW, MINUTE, -HOUR, BOTH, too_old(CALL, "60 min after")),
        (NOW, MINUTE, None, BOTH, NO_CALL + HINT),
        (NOW, None, None, BOTH, NO_WEB),
        # what a server need not have, need not be fresh
        (NOW, MINUTE, 3 * HOUR, {WEB}, ""),
        (NOW, None, MINUTE, {CALL}, ""),
    ],
)
def test_fit_to_count(ended: Any, web_age: Any, call_age: Any, wanted: Any, problem: str) -> None:
    ages = {WEB: web_age, CALL: call_age}
    counters = {bridge: Counter(1, "1", age) for bridge, age in ages.items() if age is not None}
    assert find_problem(Reading(ended, counters), wanted, NOW) == problem


def test_no_hint_at_callbridges_that_are_listed(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(webbridge_restart, "CALLBRIDGES", {1: "10.0.0.1"})
    assert find_problem(parse(end()), {CALL}, NOW) == NO_CALL
    assert find_problem(parse(end()), {WEB}, NOW) == NO_WEB


# ---- Sums, conditions, and what is told ----------------------------------------------------------

BUSY, CLEAN = ", more than --max-active 0", ", fewer than --if-leaked 21"
CONDITIONS = {  # the sums, --if-leaked and --max-active
    (Figures(23, 3), 20, 3): (True, "3 active sessions; 20 leaked sessions."),
    (Figures(23, 3), 21, 3): (False, f"3 active sessions; 20 leaked sessions{CLEAN}."),
    (Figures(21, 1), 20, 0): (False, f"1 active session{BUSY}; 20 leaked sessions."),
    (Figures(21, 1), 21, 0): (False, f"1 active session{BUSY}; 20 leaked sessions{CLEAN}."),
    (Figures(2, 1), None, 1): (True, "1 active session; 1 leaked session."),
    (Figures(3, 5), 0, None): (True, "5 active sessions; 0 leaked sessions."),  # never below 0
}


def test_conditions() -> None:
    assert {case: decide(*case) for case in CONDITIONS} == CONDITIONS


def test_full_web_bridges() -> None:
    servers = [webbridge_restart.Server(number, f"cms{number}", "", number) for number in (1, 2, 3)]
    logs = [parse(web(sessions)) for sessions in (149, 148, 999_999_999)]
    told = explain_full(dict(zip(servers, logs)))
    assert told.startswith("FULL: server 1 (cms1), server 3 (cms3). At 149 sessions ")
    assert told.endswith(f" which ends its meetings: {SCRIPT.name} 1 3")
    assert explain_full({servers[0]: logs[1]}) == ""


def test_table(remote: Remote) -> None:
    """Each row has what there is of its server, and why it does not count."""
    now = datetime.datetime.now(datetime.timezone.utc)
    full, old, near, last = (f"{now - n * MINUTE:%Y-%m-%d %H:%M:%S}" for n in (125, 30, 6, 5))
    logs = (
        web(149, full) + call(14, 17, near) + end(last),
        web(50, old) + typed(stamp=old) + call(1, 1, old) + end(last),
        "no log",
    )
    for number, log in enumerate(logs, 194):
        remote.at(f"10.48.79.{number}", text=log.encode())
    ran = remote.run("--sessions")
    assert ran.err == (
        "Server            Web Bridge           Age      CMA    Age     Log ends\n"
        f"1 (10.48.79.194)  149 FULL             2 hours  14/17  1 min   {last}\n"
        f"2 (10.48.79.195)  0 (restarted since)  25 min   1/1    25 min  {last}  "
        f"Not counted: {too_old(CALL, '25 min before')}\n"
        "3 (10.48.79.196)  -                    -        -      -       -                    "
        f"Not counted: {NO_TIME}\n"
        "Cannot count: 2 of 3 servers, see above.\n"
    )
    assert (ran.status, ran.out, ran.log) == (1, "", [])
