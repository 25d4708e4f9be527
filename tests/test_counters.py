"""Counting: the counters in a log, whether they are fit to count, the sums and the conditions.

All of it is pure functions of text and times, so it stands here as tables.
"""

from __future__ import annotations

import datetime
import time
import tracemalloc
from collections.abc import Collection

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import webbridge_restart
from conftest import Run
from mmp import MMP
from webbridge_restart import (
    SCRIPT,
    Counter,
    Figures,
    LogEnd,
    Reading,
    decide,
    explain_full,
    find_problem,
    format_span,
    parse_log,
)

MIB = 1 << 20
WEB, CALL = "Web Bridge", "Call Bridge"
BOTH = frozenset((WEB, CALL))
HOUR, MINUTE, SECOND = (datetime.timedelta(seconds=seconds) for seconds in (3600, 60, 1))
DAY = 24 * HOUR
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


# ---- Logs, as an MMP writes them -----------------------------------------------------------------


def utc(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(f"{text}+00:00")


def without_year(moment: datetime.datetime) -> str:
    return f"{MONTHS[moment.month - 1]} {moment.day:2} {moment:%H:%M:%S}"


NOW = utc("2026-06-20T21:16:00")  # when these logs end


def ago(minutes: float = 0) -> str:
    return without_year(NOW - minutes * MINUTE)


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
    text: str | bytes,
    now: datetime.datetime = NOW,
    wanted: Collection[str] = BOTH,
    is_cut: bool = False,
) -> Reading:
    whole = text.encode() if isinstance(text, str) else text
    return parse_log(LogEnd(whole, is_cut), wanted, now)


def shown(reading: Reading) -> dict[str, str]:
    return {bridge: counter.shown for bridge, counter in reading.counters.items()}


# ---- Times ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stamp", "now", "expected"),
    [
        # without a year: the year that brings it nearest
        ("Dec 31 23:59:00", "2026-01-01T00:01:00", "2025-12-31T23:59:00"),
        ("Jan  1 00:01:00", "2025-12-31T23:59:00", "2026-01-01T00:01:00"),
        ("Jul  2 00:00:00.594", "2026-01-01T00:00:00", "2026-07-02T00:00:00"),
        ("Jul 04 00:00:00", "2026-01-01T00:00:00", "2025-07-04T00:00:00"),
        ("<14>Jun  2 21:16:00", "2026-06-02T00:00:00", "2026-06-02T21:16:00"),
        # leap day
        ("Feb 29 23:59:00", "2024-03-01T00:01:00", "2024-02-29T23:59:00"),
        ("Feb 29 12:00:00", "2025-03-01T00:00:00", "2024-02-29T12:00:00"),
        ("Feb 29 12:00:00", "2100-03-02T00:00:00", "2104-02-29T12:00:00"),
        ("2024-02-29T12:00:00", "2026-01-01T00:00:00", "2024-02-29T12:00:00"),
        # with a year: that year
        ("2019-12-31T23:59:00", "2026-01-01T00:00:00", "2019-12-31T23:59:00"),
        ("2024-03-05 16:50:25,736", "2026-01-01T00:00:00", "2024-03-05T16:50:25"),
        # time zones
        ("2024-03-05T16:50:25.736Z", "2026-01-01T00:00:00", "2024-03-05T16:50:25"),
        ("2024-03-05T16:50:25+01:00", "2026-01-01T00:00:00", "2024-03-05T15:50:25"),
        ("2024-03-05T16:50:25.736-0800", "2026-01-01T00:00:00", "2024-03-06T00:50:25"),
        ("Dec 31 23:30:00-08:00", "2026-01-01T07:31:00", "2026-01-01T07:30:00"),
        # dates and times that do not exist, and what is none
        ("Jun 31 21:15:00", "2026-06-30T00:00:00", None),
        ("Foo 20 21:15:00", "2026-06-20T00:00:00", None),
        ("2023-02-29T21:15:00", "2023-03-01T00:00:00", None),
        ("0000-01-10T21:15:00", "2026-01-01T00:00:00", None),
        ("2026-06-20T21:15:00+24:00", "2026-06-20T00:00:00", None),
        ("20.06.2026 21:15:00", "2026-06-20T00:00:00", None),
        (" Jun 20 21:15:00", "2026-06-20T00:00:00", None),
    ],
)
def test_time_of_a_line(stamp: str, now: str, expected: str | None) -> None:
    assert parse(end(stamp), utc(now), ()).end == (utc(expected) if expected else None)


@given(
    st.datetimes(datetime.datetime(2000, 1, 1), datetime.datetime(2100, 1, 1)),
    st.timedeltas(-182 * DAY, 182 * DAY),
)
@settings(deadline=None)
def test_time_without_a_year_is_never_half_a_year_off(
    moment: datetime.datetime, off: datetime.timedelta
) -> None:
    moment = moment.replace(microsecond=0, tzinfo=datetime.timezone.utc)
    assert parse(end(without_year(moment)), moment + off, ()).end == moment


@pytest.mark.parametrize(
    ("span", "words"),
    [
        (29 * SECOND, "0 min"),
        (31 * SECOND, "1 min"),
        (119 * MINUTE, "119 min"),
        (2 * HOUR, "2 hours"),
        (-26 * HOUR, "26 hours"),
        (2 * DAY - MINUTE, "47 hours"),
        (2 * DAY, "2 days"),
        (366 * DAY, "366 days"),
    ],
    ids=str,
)
def test_span_of_time_in_words(span: datetime.timedelta, words: str) -> None:
    assert format_span(span) == words


@pytest.mark.parametrize(
    ("counted", "last", "age"),
    [
        ("Dec 31 23:58:00", "Jan  1 00:01:00", 3 * MINUTE),
        ("Jan  1 00:01:00", "Dec 31 23:58:00", -3 * MINUTE),
        ("2023-12-31T23:58:00.5", "2024-01-01T00:01:00.1", 3 * MINUTE),
        ("Feb 28 23:59:00", "Mar  1 00:01:00", 2 * MINUTE),
        ("Feb 28 23:59:00", "2024-03-01T00:01:00", DAY + 2 * MINUTE),
        ("2026-06-20T21:16:00+01:00", "2026-06-20T20:17:00Z", MINUTE),
        ("Jun 20 21:16:00", "2026-06-20T20:17:00-01:00", MINUTE),
    ],
)
def test_age_of_a_counter_is_against_the_last_line(
    counted: str, last: str, age: datetime.timedelta
) -> None:
    """Not against this computer's clock."""
    found = parse(call(1, 2, counted) + end(last), utc("2026-08-01T00:00:00"))
    assert found.counters[CALL].age == age


# ---- Lines with a counter ------------------------------------------------------------------------


STATS = '{"new": [1, {"x": null}], "CMA": "14/17", "callLegs": "20/24", "name": "\xe9"}'


@pytest.mark.parametrize(
    "line",
    [
        "Jun 20 21:16:19 user.info acanosrv02 webbridge:  INFO : [DEBUGGING] Stats 149, c:3, d:1",
        "Jun  2 21:16:19 user.info acanosrv02 webbridge:INFO:[DEBUGGING] Stats 149, c:3, d:1",
        "Feb 29 09:02:21.594 user.info CMS host:webbridge: INFO : [DEBUGING] Stats 149, c:1, d:0",
        '2024-03-05T16:50:25.736 user.info cms01 "webbridge": INFO : [DEBUGGING] Stats 149, c:1',
        "2024-03-05 16:50:25,736 local0.info cms01 “webbridge”: INFO : [DEBUGGING] Stats 149, c:1",
        "2024-03-05T16:50:25+01:00 user.info cms1 k webbridge [7] :\tINFO : [DEBUGGING] Stats 149,",
        f"Jun 20 21:16:19 user.info acanosrv02 host:server:  INFO : STATS: {STATS}",
        f"Feb 23 09:02:21.594 user.info CMS host:server: INFO : STATS: {STATS}",
        f"2024-03-05T16:50:25.736 user.info cms01 extra host:server: INFO : STATS:{STATS}",
        f"Jun 20 21:16:19\tuser.info\tcms01 server[99]: INFO: STATS : {STATS}",
    ],
)
@pytest.mark.parametrize("line_end", ["", "\n", "\r\n"], ids=["none", "LF", "CRLF"])
def test_lines_with_a_counter(line: str, line_end: str) -> None:
    expected = {WEB: "149"} if "webbridge" in line else {CALL: "14/17"}
    for encoding in ("utf-8", "cp1252"):
        assert shown(parse((line + line_end).encode(encoding))) == expected


@pytest.mark.parametrize(
    "unreadable",
    [
        f"{ago()} user.info cms1 {line}"
        for line in (
            'host:server: INFO : STATS: {"callLegsPS": 1}',
            'host:server: INFO : STATS: {"CMA": "-1/17"}',
            'host:server: INFO : STATS: {"CMA": "1/2/3"}',
            'host:server: INFO : STATS: {"CMA": 14}',
            'host:server: INFO : STATS: {"callLegs": "8/9"}',
            'host:server: DEBUG : STATS: {"CMA": "8/9"}',
            "webbridge: INFO : [DEBUGGING] Stats -1, c:1, d:1",
            "webbridge: INFO : [DEBUGGING] Stats 5000000000, c:1, d:1",
            "webbridge: INFO : [DEBUGGING] Stats 8",
            "webbridge: INFO : Stats 8, c:1, d:1",
        )
    ]
    + [
        web(8, "Jun 31 21:15:00") + call(8, 9, "Jun 31 21:15:00"),  # such dates do not exist
        web(8, "2023-02-29T21:15:00") + call(8, 9, "Foo 20 21:15:00"),
        web(8, "") + call(8, 9, ""),
    ],
)
def test_before_an_unreadable_counter_the_one_before_it_counts(unreadable: str) -> None:
    text = web(1, ago(5)) + call(1, 2, ago(5)) + web(7) + call(3, 4) + f"{unreadable}\n"
    assert shown(parse(text)) == {WEB: "7", CALL: "3/4"}


FORGED = [
    "webbridge: INFO : [DEBUGGING] Stats 0, c:1, d:1",
    "Jun 20 21:16:00 user.info cms1 webbridge: INFO : [DEBUGGING] Stats 0, c:1, d:1",
    'host:server: INFO : STATS: {"CMA": "0/0"}',
    f"cli: {TYPED}",
    f"Jun 20 21:16:00 user.info cms1 cli: {TYPED}",
]


@pytest.mark.parametrize("text", FORGED)
@pytest.mark.parametrize(
    "before",
    [
        "host:server: INFO : guest login request: name ",
        "host:server: INFO : ",
        "host:server: INFO : chat from x: ",
        "cli: User admin from 10.0.0.5:50122 issued command <",
        "cli: ",
        "postgres [20882]:  [2-7] ",
        "postgres[20882]: ",
        "x y z w ",
    ],
)
def test_text_from_a_client_or_another_process_does_not_count(before: str, text: str) -> None:
    forged = f"{ago(0.5)} local0.warning ClusterCore1 {before}{text}\n"
    assert shown(parse(web(30) + call(10, 11) + forged)) == {WEB: "30", CALL: "10/11"}


def test_counter_under_the_name_of_the_other_process_does_not_count() -> None:
    swapped = web(5).replace("webbridge", "host:server") + call(1, 1).replace("server", "webbridge")
    assert parse(swapped).counters == {}


@pytest.mark.parametrize(
    ("is_cut", "counters"),
    [(True, {CALL: "10/11"}), (False, {WEB: "1", CALL: "10/11"})],
)
def test_first_line_of_a_log_that_was_cut_does_not_count(
    is_cut: bool, counters: dict[str, str]
) -> None:
    """It may be the end of a longer line, and say what a client sent."""
    assert shown(parse(web(1) + call(10, 11) + end(), is_cut=is_cut)) == counters


# ---- A restart that the log records --------------------------------------------------------------

RESTARTED = "0 (restarted since)"


@pytest.mark.parametrize(
    ("line", "web_bridge"),
    [
        (typed(), RESTARTED),
        (typed(process="cli[77]:"), RESTARTED),
        (typed(TYPED.replace("< webbridge restart>", "<webbridge  restart >")), RESTARTED),
        (typed() + web(2, ago(1.2)), "2"),
        (typed() + web(2, ago(1.2)) + typed(stamp=ago(0.5)), RESTARTED),
        (typed() + end() + typed(stamp=ago(0.5)), RESTARTED),
        (typed(stamp="Jun 31 21:15:00"), "149"),
        (typed(TYPED.replace("granted", "denied")), "149"),
        (typed(TYPED.replace("restart>", "disable>")), "149"),
        (typed(TYPED.replace("webbridge", "callbridge")), "149"),
        (typed(process="host:server:"), "149"),
        (typed(process="host:server: INFO : chat:"), "149"),
        (typed(f"User x from y typed: {TYPED}"), "149"),
    ],
)
def test_restart_of_the_web_bridge_sets_an_older_counter_to_zero(
    line: str, web_bridge: str
) -> None:
    """The Call Bridge's counter stays."""
    reading = parse(web(149) + call(3, 4) + line + end())
    assert shown(reading) == {WEB: web_bridge, CALL: "3/4"}
    assert reading.counters[WEB].active == int(web_bridge.split()[0])


# ---- Any text ------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [web(5), call(1, 2), end(), typed(), '{"CMA": "1/2"}', "STATS: {", "\n", "<14>", ago()]
)


@given(
    st.lists(PIECES.map(str.encode) | st.binary(max_size=30), max_size=20).map(b"".join),
    st.booleans(),
)
@settings(deadline=None)
def test_parser_never_raises(text: bytes, is_cut: bool) -> None:
    reading = parse(text, is_cut=is_cut)
    assert set(shown(reading).values()) <= {"5", "1/2", RESTARTED}
    assert find_problem(reading, reading.counters, NOW) == "" or not reading.end


@given(
    st.integers(0, 10**9 - 1),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.binary(max_size=200).map(lambda noise: noise.replace(b"\n", b"")),
)
@settings(deadline=None)
def test_newest_counters_are_found_in_any_noise(
    sessions: int, active: int, more: int, noise: bytes
) -> None:
    older, newer = web(1, ago(9)) + call(1, 1, ago(9)), web(sessions) + call(active, active + more)
    counters = parse(older.encode() + noise + b"\n" + newer.encode() + noise).counters
    assert (counters[WEB].active, counters[CALL].active) == (sessions, active)


def test_very_many_short_lines_are_parsed_in_bounded_memory_and_soon() -> None:
    """16 MiB of them, the most that is read, take 16 times as much."""
    text = b"Jun 20 21:16:00\n" * (MIB >> 4)
    began = time.monotonic()
    tracemalloc.start()
    assert parse(text, is_cut=True).counters == {}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * MIB
    assert time.monotonic() - began < 60


# ---- Fit to count, or why not --------------------------------------------------------------------

AHEAD = "from now; check both clocks"


@pytest.mark.parametrize(
    ("stamp", "now", "distance"),
    [
        # 26 hours before this computer's clock, and after it
        ("Jun 20 12:00:00", "2026-06-21T14:00:00", ""),
        ("Jun 20 12:00:00", "2026-06-21T14:00:01", "26 hours ago"),
        ("Jun 20 12:00:00", "2026-06-19T10:00:00", ""),
        ("Jun 20 12:00:00", "2026-06-19T09:59:59", f"26 hours {AHEAD}"),
        # a log of the same day a year ago
        ("2025-06-20T12:00:00", "2026-06-20T12:00:00", "365 days ago"),
        # a time without a zone may be that of Kiribati, 14 hours ahead, or of Baker Island
        ("2026-06-21T02:00:00", "2026-06-20T12:00:00", ""),
        ("Jun 20 00:00:00", "2026-06-20T12:00:00", ""),
        # a time with a zone
        ("2026-06-20T12:00:00+14:00", "2026-06-20T23:59:59", ""),
        ("2026-06-20T12:00:00+14:00", "2026-06-21T00:00:01", "26 hours ago"),
        ("2026-06-20T12:00:00-1200", "2026-06-22T02:00:01", "26 hours ago"),
    ],
)
def test_log_is_current_or_not(stamp: str, now: str, distance: str) -> None:
    reading = parse(web(9, stamp) + call(3, 4, stamp) + end(stamp), utc(now))
    problem = f"The log ends on {stamp[:19]}, {distance}." if distance else ""
    assert find_problem(reading, BOTH, utc(now)) == problem


def too_old(bridge: str, age: str) -> str:
    return f"The newest {bridge} counter is too old: it was logged {age} the log's end."


LINE = {
    WEB: '"webbridge": INFO : [DEBUGGING] Stats 149, c:3477, d:3170',
    CALL: 'host:server: INFO : STATS: {"callLegsPS": 1, "CMA": "14/17"}',
}
NO_COUNTER = "No {} counter in the log (such a line has: {})."
NO_WEB = f"{NO_COUNTER.format(WEB, LINE[WEB])} Check that this server runs a Web Bridge 2."
NO_CALL = NO_COUNTER.format(CALL, LINE[CALL])
HINT = (
    " CMS 2.8 and newer log it. If other servers run the Call Bridges, list all of those in "
    "CALLBRIDGES."
)


@pytest.mark.parametrize(
    ("web_age", "call_age", "wanted", "problem"),
    [
        (2 * MINUTE, MINUTE, BOTH, ""),
        (DAY, 15 * MINUTE, BOTH, ""),
        (-DAY, -15 * MINUTE, BOTH, ""),
        (DAY + SECOND, MINUTE, BOTH, too_old(WEB, "24 hours before")),
        (3 * DAY, MINUTE, BOTH, too_old(WEB, "3 days before")),
        (MINUTE, 15 * MINUTE + SECOND, BOTH, too_old(CALL, "15 min before")),
        (MINUTE, -HOUR, BOTH, too_old(CALL, "60 min after")),
        (None, MINUTE, BOTH, NO_WEB),
        (MINUTE, None, BOTH, NO_CALL + HINT),
        (None, None, BOTH, NO_WEB),
        # what a server need not have, need not be fresh
        (MINUTE, 3 * HOUR, {WEB}, ""),
        (None, MINUTE, {CALL}, ""),
        (25 * HOUR, 16 * MINUTE, {CALL}, too_old(CALL, "16 min before")),
    ],
)
def test_counter_is_fresh_or_not(
    web_age: datetime.timedelta | None,
    call_age: datetime.timedelta | None,
    wanted: Collection[str],
    problem: str,
) -> None:
    ages = {WEB: web_age, CALL: call_age}
    counters = {bridge: Counter(1, "1", age) for bridge, age in ages.items() if age is not None}
    assert find_problem(Reading(NOW, ago(), counters, "the log"), wanted, NOW) == problem


def test_counter_cannot_be_missing_because_of_callbridges_if_they_are_listed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(webbridge_restart, "CALLBRIDGES", {1: "10.0.0.1"})
    assert find_problem(parse(end()), {CALL}, NOW) == NO_CALL


def test_problem_says_how_much_of_the_log_was_read() -> None:
    filler = b"x" * 16 * MIB
    read = "the last 16 MiB of the log"
    reading = parse(filler + b"\n" + end().encode(), is_cut=True)
    assert find_problem(reading, BOTH, NOW) == NO_WEB.replace("the log", read, 1)
    no_time = "No line in {} begins with a time."
    assert find_problem(parse(filler, is_cut=True), BOTH, NOW) == no_time.format(read)
    assert find_problem(parse(""), BOTH, NOW) == no_time.format("the log")


# ---- Sums, conditions, and what is told ----------------------------------------------------------


BUSY = "3 active sessions, more than --max-active {}; 20 leaked sessions"
CLEAN = "3 active sessions; 20 leaked sessions, fewer than --if-leaked 21."
YES = "3 active sessions; 20 leaked sessions."


@pytest.mark.parametrize(
    ("figures", "if_leaked", "max_active", "is_yes", "words"),
    [
        (Figures(23, 3), 20, None, True, YES),
        (Figures(23, 3), 21, None, False, CLEAN),
        (Figures(23, 3), 0, None, True, YES),
        (Figures(23, 3), None, 3, True, YES),
        (Figures(23, 3), None, 2, False, f"{BUSY.format(2)}."),
        (Figures(23, 3), None, 0, False, f"{BUSY.format(0)}."),
        (Figures(23, 3), 20, 3, True, YES),
        (Figures(23, 3), 21, 3, False, CLEAN),
        (Figures(23, 3), 20, 2, False, f"{BUSY.format(2)}."),
        (Figures(23, 3), 21, 2, False, f"{BUSY.format(2)}, fewer than --if-leaked 21."),
        (Figures(2, 1), None, 1, True, "1 active session; 1 leaked session."),
        (Figures(3, 5), 0, None, True, "5 active sessions; 0 leaked sessions."),  # never below 0
    ],
)
def test_conditions(
    figures: Figures, if_leaked: int | None, max_active: int | None, is_yes: bool, words: str
) -> None:
    assert decide(figures, if_leaked, max_active) == (is_yes, words)


@pytest.mark.parametrize(
    ("sessions", "names", "numbers"),
    [
        ([], "", ""),
        ([148, 0], "", ""),
        ([149], "server 1 (cms1)", "1"),
        ([150, 148, 999_999_999], "server 1 (cms1), server 3 (cms3)", "1 3"),
    ],
)
def test_full_web_bridges(sessions: list[int], names: str, numbers: str) -> None:
    readings = {
        webbridge_restart.Server(number, f"cms{number}", f"cms{number}", 22): parse(
            web(count) + end()
        )
        for number, count in enumerate(sessions, 1)
    }
    told = explain_full(readings)
    sentences = (
        f"FULL: {names}. At 149 sessions a Web Bridge accepts no more, so nobody else can join "
        f"there. To restart it now, which ends its meetings: {SCRIPT.name} {numbers}"
    )
    assert told == (sentences if names else "")


STARTED = datetime.datetime.now(datetime.timezone.utc)


def stamp(minutes: int) -> str:
    """Return the time so many minutes before this file was loaded."""
    return f"{STARTED - minutes * MINUTE:%Y-%m-%d %H:%M:%S}"


def test_table(run: Run) -> None:
    """Each row has what there is of its server, and why it does not count."""
    full, last, old = stamp(125), stamp(5), stamp(30)
    with MMP() as first, MMP() as second, MMP(log=b"no log") as third:
        first.log = (web(149, full) + call(14, 17, stamp(6)) + end(last)).encode()
        second.log = (web(50, old) + typed(stamp=old) + call(1, 1, old) + end(last)).encode()
        ran = run([first, second, third], "--sessions")
    reason = too_old(CALL, "25 min before")
    names = [f"{n} ({mmp.address})" for n, mmp in enumerate((first, second, third), 1)]
    width = max(map(len, names))
    assert ran.err.splitlines() == [
        f"{'Server':{width}}  Web Bridge           Age      CMA    Age     Log ends",
        f"{names[0]:{width}}  149 FULL             2 hours  14/17  1 min   {last}",
        f"{names[1]:{width}}  0 (restarted since)  25 min   1/1    25 min  {last}  "
        f"Not counted: {reason}",
        f"{names[2]:{width}}  -                    -        -      -       -                    "
        "Not counted: No line in the log begins with a time.",
        "Cannot count: 2 of 3 servers, see above.",
    ]
    assert (ran.status, ran.out, ran.log) == (1, "", [])
