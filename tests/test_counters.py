"""Counting: the counters in a log, whether they are fit to count, the sums and the conditions."""

from __future__ import annotations

import datetime
import re
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import MonkeyPatch, fixture, mark, skip

import webbridge_restart
from conftest import NOW
from remote import Remote
from webbridge_restart import (
    CALL,
    WEB,
    Bridge,
    Counter,
    Figures,
    Reading,
    command_line,
    decide,
    format_span,
    parse_log,
    why_unfit,
)

BOTH = {WEB, CALL}
DAY, MINUTE = datetime.timedelta(days=1), datetime.timedelta(minutes=1)
IF = ("--if-leaked", "1", "--max-active", "0")
RESTART = "webbridge restart"


# ---- Logs, as an MMP writes them -----------------------------------------------------------------


def utc(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(f"{text}+00:00")


def ago(minutes: float = 0) -> str:
    """Return a time before the one at which logs are read."""
    return f"{NOW - minutes * MINUTE:%b %d %H:%M:%S}"


def web(sessions: int, stamp: str = ago(2)) -> str:
    stats = f"[DEBUGGING] Stats {sessions}, c:3477, d:3170"
    return f"{stamp} user.info cms1 webbridge: INFO : {stats}\n"


def call(active: int, peak: int, stamp: str = ago(1)) -> str:
    stats = f'{{"callLegsPS": 1, "CMA": "{active}/{peak}", "sip": {{"std": "0/1", "peer": "6/6"}}}}'
    return f"{stamp} user.info cms1 host:server:  INFO : STATS: {stats}\n"


TYPED = "User admin from 10.0.0.5:50122 issued command < webbridge restart>: permission granted"


def typed(text: str = TYPED, process: str = "cli:", stamp: str = ago(1.5)) -> str:
    return f"{stamp} user.info cms1 {process} {text}\n"


def parse(text: str | bytes, now: datetime.datetime = NOW) -> dict[Bridge, Counter]:
    return parse_log(text.encode() if isinstance(text, str) else text, BOTH, now)


def shown(counters: dict[Bridge, Counter]) -> dict[Bridge, str]:
    return {bridge: counter.shown for bridge, counter in counters.items()}


# ---- Times ---------------------------------------------------------------------------------------


@mark.parametrize(
    ("stamp", "now", "expected"),
    [
        # without a year: the year that brings it nearest
        ("Jan  1 00:01:00.594", "2025-12-31T23:59:00", "2026-01-01T00:01:00"),
        ("Dec 31 23:59:00", "2026-01-01T00:01:00", "2025-12-31T23:59:00"),
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
    found = parse(call(1, 2, stamp), utc(now))
    assert [counter.logged for counter in found.values()] == ([utc(expected)] if expected else [])


def test_spans_of_time_in_words() -> None:
    spans = {0.49: "0 min", 0.51: "1 min", 119: "119 min", 120: "2 hours", -26 * 60: "26 hours"}
    spans |= {48 * 60 - 1: "47 hours", 48 * 60: "2 days"}
    assert {minutes: format_span(minutes * MINUTE) for minutes in spans} == spans


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
        typed(stamp="Jun 31 21:15:00"),
        typed(TYPED.replace("granted", "denied")),
        typed(TYPED.replace("restart>", "disable>")),
        typed(TYPED.replace("webbridge", "callbridge")),
        typed(process="host:server:"),
        typed(f"User x from y typed: {TYPED}"),
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
    counters = parse(web(149) + call(3, 4) + lines)
    assert shown(counters) == {WEB: web_bridge, CALL: "3/4"}
    assert counters[WEB].sessions == int(web_bridge.split()[0])


# ---- Any text ------------------------------------------------------------------------------------

YEAR_1 = call(1, 2, "0001-01-01 00:00:00")  # which may have no local time
PIECES = st.sampled_from(
    [web(5), call(1, 2), typed(), '{"CMA": "1/2"}', "STATS: {", "\n", ago(), YEAR_1]
)


@given(st.lists(PIECES.map(str.encode) | st.binary(max_size=30), max_size=20).map(b"".join))
@settings(deadline=None)
def test_any_text(text: bytes) -> None:
    """The newest counters are found before and behind it."""
    assert set(shown(parse(text)).values()) <= {"5", "1/2", RESTARTED}
    newest, behind = (web(7) + call(3, 4)).encode(), b"x" + text.replace(b"\n", b"")
    assert shown(parse(text + b"\n" + newest + behind)) == {WEB: "7", CALL: "3/4"}


def test_very_many_short_lines_need_little_memory() -> None:
    """As objects, all at once, they would need several times as much as the text."""
    text = b"Jun 20 21:16:00\n" * 10_000
    parse(text)  # what Python loads at the first time does not count
    tracemalloc.start()
    assert parse(text) == {}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(text)


# ---- Fit to count, or why not --------------------------------------------------------------------

SUCH = "counter in the last 16 MiB of the log (such a line has: "
NO_CALL = f'No Call Bridge {SUCH}host:server: INFO : STATS: {{"callLegsPS": 1, "CMA": "14/17"}}).'
NO_WEB = f'No Web Bridge {SUCH}"webbridge": INFO : [DEBUGGING] Stats 149, c:3477, d:3170).'
NO_WEB += " Check that this server runs a Web Bridge 2."
HINT = (
    " CMS 2.8 and newer log it. If other servers run the Call Bridges, list all of those in "
    "CALLBRIDGES."
)


def test_missing_counters(monkeypatch: MonkeyPatch) -> None:
    """What a server need not have, need be neither there nor fresh."""
    none, old = Reading({}, {}, ""), Reading(parse(call(1, 2)), {CALL: DAY}, "")
    assert why_unfit(none, set()) == why_unfit(old, set()) == ""
    assert why_unfit(none, {CALL}) == NO_CALL + HINT
    assert why_unfit(none, {WEB}) == why_unfit(old, BOTH) == NO_WEB
    monkeypatch.setattr(webbridge_restart, "CALLBRIDGES", {1: "10.0.0.1"})
    assert why_unfit(none, {CALL}) == NO_CALL  # they are listed
    assert why_unfit(none, {WEB}) == NO_WEB


def unfit(bridge: Bridge, when: str) -> str:
    fault = "of the future" if when.endswith("from now") else "too old"
    return f"The newest {bridge.name} counter is {fault}: it was logged {when}, at "


def check(bridge: Bridge, when: str) -> str:
    runs = "" if when.endswith("from now") else f"that the {bridge.name} runs, and "
    return f" Check {runs}both clocks."


# A zone of this computer, with its rules, so that no database of zones is needed; and whether log
# times are in it.
BERLIN, NEW_YORK = ("CET-1CEST,M3.5.0,M10.5.0/3", True), ("EST5EDT,M3.2.0,M11.1.0", True)
UTC, UTC_HERE, UTC_THERE = ("", False), (BERLIN[0], False), (NEW_YORK[0], False)


@fixture
def patch() -> Iterator[MonkeyPatch]:
    """Patch also the zone until the end of the test."""
    with MonkeyPatch.context() as patch:
        yield patch
    if hasattr(time, "tzset"):
        time.tzset()


# How the sentence ends
FOR_UTC, LOCAL = " (taken for UTC).", " (taken for this computer's local time)."
OTHER = " (UTC+0200)."
IF_LOCAL = (
    " If that server logs in this computer's local time, set LOG_TIMES_ARE_LOCAL = True in "
    "webbridge_restart.py."
)
IF_UTC = " If that server logs in UTC, set LOG_TIMES_ARE_LOCAL = False in webbridge_restart.py."
# The zones, now in UTC, the counter, its time, and if it does not count, what is told. The other
# counter is fresh, but where the other setting is named.
AGES = {
    "limit": (UTC, "2026-06-20T21:16", CALL, "Jun 20 21:01:00", "", ""),
    "old": (UTC, "2026-06-20T21:16", CALL, "Jun 20 21:00:59", "15 min ago", FOR_UTC),
    "limit ahead": (UTC, "2026-06-20T21:16", CALL, "Jun 20 21:31:00", "", ""),
    "ahead": (UTC, "2026-06-20T21:16", CALL, "Jun 20 21:31:01", "15 min from now", FOR_UTC),
    "web limit": (UTC, "2026-06-20T21:16", WEB, "Jun 19 21:16:00", "", ""),
    "web old": (UTC, "2026-06-20T21:16", WEB, "Jun 19 21:15:59", "24 hours ago", FOR_UTC),
    "New Year": (UTC, "2027-01-01T00:01", CALL, "Dec 31 23:59:00", "", ""),
    "New Year ahead": (UTC, "2026-12-31T23:59", WEB, "Jan  1 00:14:00", "", ""),
    "leap day": (UTC, "2028-03-01T00:01", WEB, "Feb 29 00:01:00", "", ""),
    "no leap day": (UTC, "2027-03-01T00:01", WEB, "Feb 28 00:00:59", "24 hours ago", FOR_UTC),
    "zone": (UTC, "2026-06-20T21:16", CALL, "Jun 20 23:15:00+02:00", "", ""),
    "zone 2": (UTC, "2026-06-20T21:16", CALL, "Jun 20 21:15:00+02:00", "2 hours ago", OTHER),
    "UTC": (UTC_HERE, "2026-06-20T21:16", CALL, "Jun 20 21:15:00", "", ""),
    "local": (BERLIN, "2026-06-20T19:16", CALL, "Jun 20 21:15:00", "", ""),
    "local New Year": (NEW_YORK, "2027-01-01T05:01", CALL, "Dec 31 23:59:00", "", ""),
    # Summer time begins, and an hour is missing
    "winter": (BERLIN, "2026-03-29T01:05", CALL, "Mar 29 01:59:59", "", ""),
    "summer": (BERLIN, "2026-03-29T01:05", CALL, "Mar 29 03:00:00", "", ""),
    "summer 2": (NEW_YORK, "2026-03-08T07:05", CALL, "Mar  8 03:00:00", "", ""),
    # Where it ends, an hour comes twice: its times are taken for the first, so what was logged just
    # now can look an hour too old, which is safe
    "first": (BERLIN, "2026-10-25T00:32", CALL, "Oct 25 02:30:00", "", ""),
    "first 2": (NEW_YORK, "2026-11-01T05:32", CALL, "Nov  1 01:30:00", "", ""),
    "again": (BERLIN, "2026-10-25T01:32", CALL, "Oct 25 02:30:00", "62 min ago", LOCAL),
    "behind": (BERLIN, "2026-10-25T02:05", CALL, "Oct 25 03:00:00", "", ""),
    # The other setting is named only where it helps, and where nothing shows that this one is right
    "is old": (UTC_THERE, "2026-12-20T02:16", WEB, "Dec 19 01:15:00", "25 hours ago", FOR_UTC),
    "is local": (
        UTC_THERE,
        "2026-12-20T02:16",
        CALL,
        "Dec 19 21:15:00",
        "5 hours ago",
        FOR_UTC,
        IF_LOCAL,
    ),
    "is local 2": (
        UTC_HERE,
        "2026-06-20T19:16",
        WEB,
        "Jun 20 21:15:00",
        "119 min from now",
        FOR_UTC,
        IF_LOCAL,
    ),
    "is UTC": (BERLIN, "2026-06-20T21:16", CALL, "Jun 20 21:15:00", "2 hours ago", LOCAL, IF_UTC),
    "neither": (UTC_HERE, "2026-06-20T19:16", CALL, "Jun 20 22:00:00", "2 hours from now", FOR_UTC),
}


@mark.parametrize("row", AGES.values(), ids=AGES)
def test_ages(remote: Remote, patch: MonkeyPatch, row: Any) -> None:
    """What does not count restarts nothing."""
    (zone, is_local), now, bridge, stamp, when, taken_for, *other_setting = row
    remote.clock.wall_ahead = (utc(now) - NOW).total_seconds()
    if zone:
        if not hasattr(time, "tzset"):
            skip("Windows sets no zone for one process")
        patch.setenv("TZ", zone)
        time.tzset()
        patch.setattr(webbridge_restart, "LOG_TIMES_ARE_LOCAL", is_local)
    times = dict.fromkeys(BOTH, f"{utc(now) - MINUTE:%Y-%m-%d %H:%M:%S}Z")
    times = dict.fromkeys(BOTH, stamp) if other_setting else {**times, bridge: stamp}
    mmp = remote.at("10.48.79.194", text=(web(9, times[WEB]) + call(0, 9, times[CALL])).encode())
    ran = remote.run(*IF)
    (first, *others) = ran.log
    if not when:
        assert first == "Restarting: 0 active sessions; 9 leaked sessions."
        assert (ran.status, len(others), RESTART in mmp.received) == (0, 1, True)
        return
    moment = r"20\d\d-\d\d-\d\d " + re.findall(r"\d\d:\d\d:\d\d", stamp)[0]
    end = "".join([taken_for, check(bridge, when), *other_setting])
    problem = re.escape(unfit(bridge, when)) + moment + re.escape(end)
    begin = r"Nothing was restarted\. Cannot count: 1 \(10\.48\.79\.194\): "
    assert re.match(rf"{begin}{problem} \| A server that is down ", first)
    assert (ran.status, others, ran.out, ran.err) == (1, [], "", f"{first}\n")
    assert RESTART not in mmp.received


def test_slow_log_ages_the_counters_before_it(remote: Remote) -> None:
    """What counts is their age when all logs were read."""
    first = remote.at("10.48.79.194", text=(web(9) + call(0, 9, ago(14.5))).encode())
    slow = remote.at("10.48.79.195", text=(web(9) + call(0, 9)).encode(), log=[45.0])
    problem = f"{unfit(CALL, '15 min ago')}2026-06-20 21:01:30{FOR_UTC}"
    problem += check(CALL, "15 min ago")
    begin = f"Nothing was restarted. Cannot count: 1 (10.48.79.194): {problem} | A server that is "
    assert [line[: len(begin)] for line in remote.run(*IF).log] == [begin]
    assert RESTART not in first.received + slow.received


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


def test_table(remote: Remote) -> None:
    """Each row has what there is of its server, and why it does not count."""
    logs = (
        web(149, ago(125)) + call(14, 17),
        web(50, ago(30)) + typed(stamp=ago(30)) + call(1, 1, ago(25)),
        web(149, ago(1441)) + call(0, 0),
        "no log",
    )
    for number, log in enumerate(logs, 194):
        remote.at(f"10.48.79.{number}", text=log.encode())
    ran = remote.run("--sessions")
    old_call = f"{unfit(CALL, '25 min ago')}2026-06-20 20:51:00{FOR_UTC}{check(CALL, 'ago')}"
    old_web = f"{unfit(WEB, '24 hours ago')}2026-06-19 21:15:00{FOR_UTC}{check(WEB, 'ago')}"
    assert ran.err == (
        "Server            Web Bridge           Age       CMA    Age\n"
        "1 (10.48.79.194)  149 FULL             2 hours   14/17  1 min\n"
        f"2 (10.48.79.195)  0 (restarted since)  30 min    1/1    25 min  Not counted: {old_call}\n"
        f"3 (10.48.79.196)  149                  24 hours  0/0    1 min   Not counted: {old_web}\n"
        f"4 (10.48.79.197)  -                    -         -      -       Not counted: {NO_WEB}\n"
        "Cannot count: 3 of 4 servers, see above.\n"
    )
    assert (ran.status, ran.out, ran.log) == (1, "", [])


def test_full_web_bridges(remote: Remote, known_hosts: Path, log_file: Path) -> None:
    """Each is named, with the age of its counter and the command that restarts them."""
    for number, sessions in enumerate((149, 148, 999_999_999), 194):
        remote.at(f"10.48.79.{number}", text=(web(sessions) + call(1, 9)).encode())
    options = ("--ask-password", "--known-hosts", known_hosts, "--log-file", log_file)
    command = command_line(sys.executable, webbridge_restart.SCRIPT, 1, 3, *options)
    names = [f"server {number} (10.48.79.{number + 193}) 2 min ago" for number in (1, 3)]
    words = "At 149 sessions a Web Bridge accepts no more, so nobody else can join there."
    words += " To restart it now, which ends its WebRTC sessions:"
    full = f"FULL: {', '.join(names)}. {words} {command}"
    assert remote.run("--sessions").out.splitlines()[-2] == full
    busy = "3 active sessions, more than --max-active 0; 1000000293 leaked sessions."
    ran = remote.run("--max-active", "0")
    assert (ran.status, ran.log) == (1, [f"Not restarted: {busy} {full}"])
    ran = remote.run("3", "--if-leaked", "1")  # which leaves server 1 as it is
    command = command_line(sys.executable, webbridge_restart.SCRIPT, 1, *options)
    begin = "Restarting: 3 active sessions; 1000000293 leaked sessions."
    assert ran.log[0] == f"{begin} FULL: {names[0]}. {words} {command}"
    assert (ran.status, len(ran.log)) == (1, 2)
