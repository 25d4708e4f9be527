"""Counting leaked sessions: what is read of a log, which figures count, what is restarted.

Times, counters, sums and conditions are pure functions, and stand here as tables. What is read of a
server's log, what is printed and what is logged goes through main([...]) over real SSH. How the
options go together is in test_options.py. What goes wrong while a log is read over the wire, as a
log that shrinks, is in test_wire.py.
"""

from __future__ import annotations

import datetime
import gzip
import os
import signal
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Union

import pytest
from hypothesis import given
from hypothesis import strategies as st

import webbridge_restart
from conftest import Run, refused, restarted, with_advice
from simulated_mmp import PASSWORD, SimulatedMMP
from webbridge_restart import Bridge, Counter, Figures, LogEnd, Reading, Row

MIB = 1 << 20
WEB, CALL = Bridge.WEB, Bridge.CALL
BOTH = frozenset(Bridge)
UTC = datetime.timezone.utc
HOUR, MINUTE, SECOND = (datetime.timedelta(seconds=seconds) for seconds in (3600, 60, 1))
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
RESTART = "webbridge restart"
NO_TIME = "The log has no line that begins with a time."
NO_WEB = "The log has no readable Web Bridge counter."
NO_CALL = "The log has no readable Call Bridge counter. CMS 2.8 and newer log it."
HINT = " If other servers run the Call Bridges, list all of those in CALLBRIDGES."
UNCOUNTABLE = "Cannot count the leaked sessions. "
HEADING = ("Server", "Web Bridge", "Before end", "CMA", "Before end", "Log ends")
CAUTIONS = """\
Before end: how long before the log's end the counter was logged.
The leaked sessions are right only if nobody uses the CMA desktop or iOS client.
In a cluster, only the sum of all servers means something.
"""

# ---- Logs, as an MMP writes them -----------------------------------------------------------------

BEGAN = datetime.datetime.now(UTC)  # when these logs end, unless a test says otherwise


def without_year(time: datetime.datetime) -> str:
    return f"{MONTHS[time.month - 1]} {time.day:2} {time:%H:%M:%S}"


def ago(minutes: float = 0) -> str:
    """Return the time so many minutes before this file was loaded, as an MMP writes it."""
    return without_year(BEGAN - minutes * MINUTE)


def web(sessions: int, stamp: str = "") -> str:
    stats = f"[DEBUGGING] Stats {sessions}, c:3477, d:3170"
    return f"{stamp or ago(2)} user.info cms1 webbridge: INFO : {stats}\n"


def call(active: int, peak: int, stamp: str = "") -> str:
    stats = f'{{"callLegsPS": 1, "CMA": "{active}/{peak}", "sip": {{"std": "0/1", "peer": "6/6"}}}}'
    return f"{stamp or ago(1)} user.info cms1 host:server:  INFO : STATS: {stats}\n"


def end(stamp: str = "") -> str:
    return f"{stamp or ago()} user.info cms1 host:server:  INFO : recording device 1: available\n"


def log(sessions: int, active: int, peak: int, minutes: float = 0) -> bytes:
    """Return a log with both counters. It ends so many minutes before this file was loaded."""
    lines = web(sessions, ago(minutes + 2)) + call(active, peak, ago(minutes + 1))
    return (lines + end(ago(minutes))).encode()


def saved_log(sessions: int, active: int, peak: int) -> bytes:
    """Return a log of long ago."""
    lines = web(sessions, "Jun 20 21:14:00") + call(active, peak, "Jun 20 21:15:00")
    return (lines + end("Jun 20 21:16:00")).encode()


def parse(text: str | bytes, now: datetime.datetime = BEGAN) -> Reading:
    """Return the reading of a log that was not cut."""
    whole = text.encode() if isinstance(text, str) else text
    return webbridge_restart.parse_log(LogEnd(whole, cut=False), now)


def shown(reading: Reading) -> dict[Bridge, str]:
    return {bridge: counter.shown for bridge, counter in reading.counters.items()}


def drawn(*rows: tuple[str, ...]) -> str:
    """Return the table with these rows. A row may have a reason as its last cell."""
    table = [HEADING, *rows]
    widths = [max(map(len, column)) for column in zip(*table)]
    text = ""
    for cells in table:
        padded = [f"{cell:{width}}" for cell, width in zip(cells, widths)]
        text += "  ".join([*padded, *cells[len(HEADING) :]]).rstrip() + "\n"
    return text


# ---- The time of a line --------------------------------------------------------------------------


def utc(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(f"{text}+00:00")


def moment(stamp: str, near: datetime.datetime) -> datetime.datetime | None:
    found = webbridge_restart.TIMED_LINE.match(f"{stamp} user.info cms1".encode())
    assert found
    return webbridge_restart.parse_time(found, near)


@pytest.mark.parametrize(
    ("stamp", "near", "expected"),
    [
        # without a year: the year that brings it nearest
        ("Jun 20 21:16:00", "2026-06-20T21:16:30", "2026-06-20T21:16:00"),
        ("Dec 31 23:59:00", "2026-01-01T00:01:00", "2025-12-31T23:59:00"),
        ("Jan  1 00:01:00", "2025-12-31T23:59:00", "2026-01-01T00:01:00"),
        ("Jan  1 00:01:00", "2026-01-01T00:02:00", "2026-01-01T00:01:00"),
        ("Jul  2 00:00:00", "2026-01-01T00:00:00", "2026-07-02T00:00:00"),
        ("Jul  4 00:00:00", "2026-01-01T00:00:00", "2025-07-04T00:00:00"),
        ("<14>Jun  2 21:16:00", "2026-06-02T00:00:00", "2026-06-02T21:16:00"),
        ("<14> Jun 02 21:16:00", "2026-06-02T00:00:00", "2026-06-02T21:16:00"),
        # leap day
        ("Feb 29 12:00:00", "2024-02-29T12:00:00", "2024-02-29T12:00:00"),
        ("Feb 29 23:59:00", "2024-03-01T00:01:00", "2024-02-29T23:59:00"),
        ("Feb 29 12:00:00", "2025-03-01T00:00:00", "2024-02-29T12:00:00"),
        ("Feb 29 12:00:00", "2027-03-01T00:00:00", "2028-02-29T12:00:00"),
        ("Feb 29 12:00:00", "2100-03-02T00:00:00", "2104-02-29T12:00:00"),
        ("Mar  1 00:01:00", "2024-02-29T23:59:00", "2024-03-01T00:01:00"),
        ("2024-02-29T12:00:00", "2026-01-01T00:00:00", "2024-02-29T12:00:00"),
        # with a year: that year
        ("2019-12-31T23:59:00", "2026-01-01T00:00:00", "2019-12-31T23:59:00"),
        ("2024-03-05 16:50:25,736", "2026-01-01T00:00:00", "2024-03-05T16:50:25"),
        # time zones
        ("2024-03-05T16:50:25.736Z", "2026-01-01T00:00:00", "2024-03-05T16:50:25"),
        ("2024-03-05T16:50:25+01:00", "2026-01-01T00:00:00", "2024-03-05T15:50:25"),
        ("2024-03-05T16:50:25.736-0800", "2026-01-01T00:00:00", "2024-03-06T00:50:25"),
        ("2024-01-01T00:10:00+05:45", "2026-01-01T00:00:00", "2023-12-31T18:25:00"),
        ("2024-01-01T13:00:00+14:00", "2024-01-01T00:00:00", "2023-12-31T23:00:00"),
        ("Jan  1 00:30:00+01:00", "2025-12-31T23:31:00", "2025-12-31T23:30:00"),
        ("Dec 31 23:30:00-08:00", "2026-01-01T07:31:00", "2026-01-01T07:30:00"),
        # times that do not exist
        ("Jun 31 21:15:00", "2026-06-30T00:00:00", None),
        ("Jun  0 21:15:00", "2026-06-01T00:00:00", None),
        ("Foo 20 21:15:00", "2026-06-20T00:00:00", None),
        ("2023-02-29T21:15:00", "2023-03-01T00:00:00", None),
        ("2026-00-10T21:15:00", "2026-01-01T00:00:00", None),
        ("0000-01-10T21:15:00", "2026-01-01T00:00:00", None),
        ("Jun 20 25:15:00", "2026-06-20T00:00:00", None),
        ("Jun 20 21:60:00", "2026-06-20T00:00:00", None),
        ("2026-06-20T21:15:00+24:00", "2026-06-20T00:00:00", None),
    ],
)
def test_time_of_a_line(stamp: str, near: str, expected: str | None) -> None:
    assert moment(stamp, utc(near)) == (utc(expected) if expected else None)


@given(
    st.datetimes(datetime.datetime(2000, 1, 1), datetime.datetime(2100, 1, 1)),
    st.timedeltas(-182 * 24 * HOUR, 182 * 24 * HOUR),
)
def test_time_without_a_year_is_never_half_a_year_off(
    time: datetime.datetime, off: datetime.timedelta
) -> None:
    time = time.replace(microsecond=0, tzinfo=UTC)
    assert moment(without_year(time), time + off) == time


@pytest.mark.parametrize(
    ("span", "words"),
    [
        (0 * MINUTE, "0 min"),
        (29 * SECOND, "0 min"),
        (31 * SECOND, "1 min"),
        (-3 * MINUTE, "3 min"),
        (119 * MINUTE, "119 min"),
        (2 * HOUR, "2 hours"),
        (-26 * HOUR, "26 hours"),
        (48 * HOUR - MINUTE, "47 hours"),
        (48 * HOUR, "2 days"),
        (366 * 24 * HOUR, "366 days"),
    ],
    ids=str,
)
def test_span_of_time_in_words(span: datetime.timedelta, words: str) -> None:
    assert webbridge_restart.format_span(span) == words


# ---- Fresh or not --------------------------------------------------------------------------------


def ends(when: str, distance: str) -> str:
    return f"The log ends on {when}, {distance}."


AHEAD = "from now; check both clocks"


@pytest.mark.parametrize(
    ("stamp", "now", "distance"),
    [
        # 26 hours before this computer's clock, and after it
        ("Jun 20 12:00:00", "2026-06-20T12:00:00", ""),
        ("Jun 20 12:00:00", "2026-06-21T14:00:00", ""),
        ("Jun 20 12:00:00", "2026-06-21T14:00:01", "26 hours ago"),
        ("Jun 20 12:00:00", "2026-06-19T10:00:00", ""),
        ("Jun 20 12:00:00", "2026-06-19T09:59:59", f"26 hours {AHEAD}"),
        # a log of months ago, and one of the same day a year ago
        ("Mar  1 12:00:00", "2026-06-20T12:00:00", "111 days ago"),
        ("Nov  1 12:00:00", "2026-06-20T12:00:00", f"134 days {AHEAD}"),
        ("2025-06-20T12:00:00", "2026-06-20T12:00:00", "365 days ago"),
        # New Year
        ("Dec 31 23:59:00", "2026-01-01T00:01:00", ""),
        ("Jan  1 00:01:00", "2025-12-31T23:59:00", ""),
        ("Dec 30 21:00:00", "2026-01-01T00:01:00", "27 hours ago"),
        ("2025-12-31T23:59:00", "2026-01-01T00:01:00", ""),
        ("2026-12-31T23:59:00", "2026-01-01T00:01:00", f"364 days {AHEAD}"),
        # a time without a zone may be that of Kiribati, 14 hours ahead, or of Baker Island
        ("Jun 21 02:00:00", "2026-06-20T12:00:00", ""),
        ("2026-06-21T02:00:00", "2026-06-20T12:00:00", ""),
        ("Jun 20 00:00:00", "2026-06-20T12:00:00", ""),
        # a time with a zone
        ("2026-06-21T14:00:00+14:00", "2026-06-20T00:00:00", ""),
        ("2026-06-20T12:00:00+14:00", "2026-06-20T23:59:59", ""),
        ("2026-06-20T12:00:00+14:00", "2026-06-21T00:00:01", "26 hours ago"),
        ("2026-06-20T12:00:00-12:00", "2026-06-22T02:00:00", ""),
        ("2026-06-20T12:00:00-1200", "2026-06-22T02:00:01", "26 hours ago"),
        # leap day
        ("Feb 29 12:00:00", "2024-02-29T12:05:00", ""),
        ("Feb 28 12:00:00", "2024-02-29T12:05:00", ""),
        ("Feb 28 12:00:00", "2024-03-01T00:00:00", "36 hours ago"),
        ("Feb 28 12:00:00", "2025-03-01T00:00:00", ""),
        ("Feb 29 12:00:00", "2024-03-01T12:00:00", ""),
        ("Feb 29 12:00:00", "2025-03-01T12:00:00", "366 days ago"),
        ("Mar  1 01:00:00", "2024-02-29T12:05:00", ""),
    ],
)
def test_log_of_a_server_is_current_or_not(stamp: str, now: str, distance: str) -> None:
    problem = ends(stamp[:19], distance) if distance else ""
    log_of_then = web(9, stamp) + call(3, 4, stamp) + end(stamp)
    reading = parse(log_of_then, utc(now))
    assert webbridge_restart.find_problem(reading, BOTH, utc(now)) == problem


@pytest.mark.parametrize("stamp", ["20.06.2026 12:00:00", "Jun 31 12:00:00", "2026-06-20"])
def test_log_without_a_time(stamp: str) -> None:
    reading = parse(web(9, stamp) + call(3, 4, stamp) + end(stamp))
    for now in (BEGAN, None):
        assert webbridge_restart.find_problem(reading, BOTH, now) == NO_TIME


@pytest.mark.parametrize("stamp", ["Mar  1 12:00:00", "2019-03-01T12:00:00", "2031-03-01T12:00:00"])
def test_saved_log_of_any_time_counts(stamp: str) -> None:
    reading = parse(web(9, stamp) + call(3, 4, stamp) + end(stamp), utc("2026-06-20T12:00:00"))
    assert webbridge_restart.find_problem(reading, BOTH, None) == ""


def too_old(bridge: Bridge, age: str) -> str:
    counter = f"The newest {bridge.value} counter is too old"
    return f"{counter}: it was logged {age} before the log's end."


@pytest.mark.parametrize("saved", [False, True], ids=["live", "saved"])
@pytest.mark.parametrize(
    ("web_age", "call_age", "wanted", "problem"),
    [
        (2 * MINUTE, MINUTE, BOTH, ""),
        (24 * HOUR, 15 * MINUTE, BOTH, ""),
        (-24 * HOUR, -15 * MINUTE, BOTH, ""),
        (24 * HOUR + SECOND, MINUTE, BOTH, too_old(WEB, "24 hours")),
        (3 * 24 * HOUR, MINUTE, BOTH, too_old(WEB, "3 days")),
        (MINUTE, 15 * MINUTE + SECOND, BOTH, too_old(CALL, "15 min")),
        (MINUTE, 3 * HOUR, BOTH, too_old(CALL, "3 hours")),
        (25 * HOUR, 25 * HOUR, BOTH, too_old(WEB, "25 hours")),
        (MINUTE, -HOUR, BOTH, too_old(CALL, "60 min").replace("before", "after")),
        (None, MINUTE, BOTH, NO_WEB),
        (MINUTE, None, BOTH, NO_CALL + HINT),
        (None, None, BOTH, NO_WEB),
        # what a server need not have, need not be fresh
        (MINUTE, None, {WEB}, ""),
        (MINUTE, 3 * HOUR, {WEB}, ""),
        (None, MINUTE, {CALL}, ""),
        (25 * HOUR, MINUTE, {CALL}, ""),
        (25 * HOUR, 16 * MINUTE, {CALL}, too_old(CALL, "16 min")),
    ],
)
def test_counter_is_fresh_or_not(
    web_age: datetime.timedelta | None,
    call_age: datetime.timedelta | None,
    wanted: Collection[Bridge],
    problem: str,
    saved: bool,
) -> None:
    ages = {WEB: web_age, CALL: call_age}
    counters = {bridge: Counter(1, "1", age) for bridge, age in ages.items() if age is not None}
    now = utc("2026-06-20T12:00:00")
    reading = Reading(now, "Jun 20 12:00:00", counters)
    assert webbridge_restart.find_problem(reading, wanted, None if saved else now) == problem


def test_counter_cannot_be_missing_because_of_callbridges_if_they_are_listed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(webbridge_restart, "CALLBRIDGES", {1: "10.0.0.1"})
    problem = webbridge_restart.find_problem(parse(end()), {CALL}, BEGAN)
    assert problem == NO_CALL


@pytest.mark.parametrize(
    ("counted", "last", "age"),
    [
        ("Dec 31 23:58:00", "Jan  1 00:01:00", 3 * MINUTE),
        ("Jan  1 00:01:00", "Dec 31 23:58:00", -3 * MINUTE),
        ("Jun  1 00:00:00", "Jun 20 00:00:00", 19 * 24 * HOUR),
        ("2023-12-31T23:58:00.5", "2024-01-01T00:01:00.1", 3 * MINUTE),
        ("Feb 28 23:59:00", "Mar  1 00:01:00", 2 * MINUTE),
        ("Feb 29 23:59:00", "2024-03-01T00:01:00", 2 * MINUTE),
        ("Feb 28 23:59:00", "2024-03-01T00:01:00", 24 * HOUR + 2 * MINUTE),
        ("Jun 20 21:16:01", "Jun 20 21:15:01", -MINUTE),
        ("2026-06-20T21:16:00+01:00", "2026-06-20T20:17:00Z", MINUTE),
        ("Jun 20 21:16:00", "2026-06-20T20:17:00-01:00", MINUTE),
    ],
)
def test_age_of_a_counter_is_against_the_last_line(
    counted: str, last: str, age: datetime.timedelta
) -> None:
    found = parse(call(1, 2, counted) + end(last), utc("2026-08-01T00:00:00"))
    assert found.counters[CALL].age == age


# ---- The lines -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "Jun 20 21:16:19 user.info acanosrv02 webbridge:  INFO : [DEBUGGING] Stats 149, c:3, d:1",
        "Jun  2 21:16:19 user.info acanosrv02 webbridge:INFO:[DEBUGGING] Stats 149, c:3, d:1",
        "Feb 29 09:02:21.594 user.info CMS host:webbridge: INFO : [DEBUGING] Stats 149, c:1, d:0",
        '2024-03-05T16:50:25.736 user.info cms01 "webbridge": INFO : [DEBUGGING] Stats 149, c:1',
        "2024-03-05 16:50:25,736 local0.info cms01 “webbridge”: INFO : [DEBUGGING] Stats 149, c:1",
        "<14>2024-03-05T16:50:25.736Z cms01 webbridge[1234]: INFO : [DEBUGGING] Stats 149, c:1",
        "<14> Jun 20 21:16:19 cms01 'webbridge'[7] : INFO : [DEBUGGING] Stats 149, c:1, d:2",
        "2024-03-05T16:50:25+01:00 user.info cms1 k webbridge:\tINFO : [DEBUGGING]  Stats  149 ,",
    ],
)
def test_web_bridge_lines(line: str) -> None:
    for line_end in ("", "\n", "\r\n"):
        counter = parse(line + line_end).counters[WEB]
        assert (counter.active, counter.shown) == (149, "149 FULL")


@pytest.mark.parametrize(
    ("sessions", "cell"),
    [(0, "0"), (148, "148"), (149, "149 FULL"), (150, "150 FULL"), (999_999_999, "999999999 FULL")],
)
def test_web_bridge_is_full_from_149_sessions_on(sessions: int, cell: str) -> None:
    assert shown(parse(web(sessions))) == {WEB: cell}


@pytest.mark.parametrize(
    "line",
    [
        "Jun 20 21:16:19 user.info acanosrv02 host:server:  INFO : STATS: ",
        "Feb 23 09:02:21.594 user.info CMS host:server: INFO : STATS: ",
        "2024-03-05T16:50:25.736 user.info cms01 host:server:   INFO : STATS: ",
        "2024-03-05T16:50:25.736 user.info cms01 extra host:server: INFO : STATS:",
        "<14>Jun 20 21:16:19 cms01 host:server[99]: INFO : STATS: ",
        "<134>Jun 20 21:16:19\tcms01 server: INFO: STATS : ",
    ],
)
def test_call_bridge_lines(line: str) -> None:
    stats = '{"new": [1, {"x": null}], "CMA": "14/17", "callLegs": "20/24", "name": "\xe9"}'
    for encoding in ("utf-8", "latin-1"):
        counter = parse((line + stats).encode(encoding)).counters[CALL]
        assert (counter.active, counter.shown) == (14, "14/17")


@pytest.mark.parametrize(
    "unreadable",
    [
        'STATS: {"callLegsPS": 1, "CMA": "14/17", "sip": {"std": "0/1"',
        'STATS: {"callLegsPS": 1}',
        'STATS: {"CMA": "18/17"}',
        'STATS: {"CMA": "-1/17"}',
        'STATS: {"CMA": "1/2/3"}',
        'STATS: {"CMA": 14}',
        'STATS: {"CMA": null}',
        pytest.param('STATS: {"a": ' + "[" * 100_000, id="nested very deeply"),
        'STATS: ["CMA", "1/2"]',
    ],
)
def test_before_an_unreadable_counter_the_one_before_it_counts(unreadable: str) -> None:
    line = f"{ago()} user.info cms1 host:server: INFO : {unreadable}\n"
    assert parse(call(3, 4) + line).counters == {CALL: Counter(3, "3/4", MINUTE)}


def test_web_bridge_counter_below_zero_does_not_count() -> None:
    assert shown(parse(web(7) + web(-1))) == {WEB: "7"}


@pytest.mark.parametrize(
    "text",
    [
        "webbridge: INFO : [DEBUGGING] Stats 0, c:1, d:1",
        "Jun 20 21:16:00 user.info cms1 webbridge: INFO : [DEBUGGING] Stats 0, c:1, d:1",
        'host:server: INFO : STATS: {"CMA": "0/0"}',
    ],
)
@pytest.mark.parametrize("before", ["guest login request: name ", "", "chat from x: "])
def test_text_from_a_client_is_no_counter(before: str, text: str) -> None:
    forged = f"{ago(0.5)} user.info cms1 host:server: INFO : {before}{text}\n"
    assert shown(parse(web(30) + call(10, 11) + forged)) == {WEB: "30", CALL: "10/11"}


def test_counter_from_another_process_is_no_counter() -> None:
    swapped = web(5).replace("webbridge", "host:server"), call(1, 1).replace("server", "webbridge")
    assert parse("".join(swapped)).counters == {}


@pytest.mark.parametrize("stamp", ["Jun 31 21:15:00", "Foo 31 21:15:00", "2023-02-29T21:15:00"])
def test_lines_whose_date_does_not_exist_are_passed_over(stamp: str) -> None:
    found = parse(web(5) + call(1, 2) + call(8, 9, stamp) + end() + end(stamp))
    assert found.counters == {WEB: Counter(5, "5", 2 * MINUTE), CALL: Counter(1, "1/2", MINUTE)}
    assert found.end_shown == ago()


def test_first_line_of_a_log_that_was_cut_does_not_count() -> None:
    """It may be the end of a longer line, and say what a client sent."""
    text = (web(1) + call(10, 11) + end()).encode()
    for cut, counters in ((True, {CALL: "10/11"}), (False, {WEB: "1", CALL: "10/11"})):
        assert shown(webbridge_restart.parse_log(LogEnd(text, cut), BEGAN)) == counters


PIECES = st.sampled_from([web(5), call(1, 2), end(), '{"CMA": "1/2"}', "STATS: {", "\n", "<14>"])


@given(
    st.lists(PIECES.map(str.encode) | st.binary(max_size=30), max_size=20).map(b"".join),
    st.booleans(),
)
def test_parser_never_raises(text: bytes, cut: bool) -> None:
    reading = webbridge_restart.parse_log(LogEnd(text, cut), BEGAN)
    assert set(shown(reading).values()) <= {"5", "1/2"}
    assert webbridge_restart.find_problem(reading, reading.counters, BEGAN) == "" or not reading.end


@given(
    st.integers(0, 10**9 - 1),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.binary(max_size=200).map(lambda noise: noise.replace(b"\n", b"")),
)
def test_newest_counters_are_found_in_any_noise(
    sessions: int, active: int, more: int, noise: bytes
) -> None:
    text = log(1, 1, 1, 60) + noise + b"\n" + log(sessions, active, active + more) + noise
    counters = parse(text).counters
    assert (counters[WEB].active, counters[CALL].active) == (sessions, active)


# ---- Sums, the table, and the conditions ---------------------------------------------------------


def row(name: str, sessions: int | None, active: int | None, problem: str = "") -> Row:
    counters = {}
    if sessions is not None:
        counters[WEB] = Counter(sessions, str(sessions), 2 * MINUTE)
    if active is not None:
        counters[CALL] = Counter(active, f"{active}/99", MINUTE)
    return Row(name, set(counters), Reading(BEGAN, "Jun 20 21:16:00", counters), problem)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([row("a", 9, 3)], "6 sessions (9 Web Bridge, 3 active CMA)"),
        ([row("a", 4, 3)], "1 session (4 Web Bridge, 3 active CMA)"),
        # one Call Bridge has more sessions than its Web Bridge: the other's are among them
        ([row("a", 20, 30), row("b", 60, 10)], "40 sessions (80 Web Bridge, 40 active CMA)"),
        ([row("a", 50, None), row("b", None, 10)], "40 sessions (50 Web Bridge, 10 active CMA)"),
        ([row("a", 3, 5)], "0 sessions (3 Web Bridge, 5 active CMA)"),
        ([row("a", 0, 0)], "0 sessions (0 Web Bridge, 0 active CMA)"),
    ],
)
def test_sums(rows: list[Row], words: str) -> None:
    figures = webbridge_restart.sum_up(rows)
    assert webbridge_restart.describe_figures(figures) == f"Leaked: {words}."


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([row("a", 9, 3), row("b", 9, 3, "Off.")], "b: Off."),
        ([row("a", 9, 3, "On fire."), row("b", 9, 3, "Off.")], "a: On fire. b: Off."),
        ([row("a", 9, None)], "There is no log of a Call Bridge."),
        ([row("a", None, 3), row("b", None, 3)], "There is no log of a Web Bridge."),
        ([row("a", None, None)], "There is no log of a Web Bridge."),
        ([row("a", 9, None), row("b", 9, None, "Off.")], "b: Off."),
    ],
)
def test_sums_that_lack_a_figure(rows: list[Row], problem: str) -> None:
    with pytest.raises(webbridge_restart.Trouble) as raised:
        webbridge_restart.sum_up(rows)
    assert str(raised.value) == UNCOUNTABLE + problem


def test_table() -> None:
    off = Row("off", BOTH, webbridge_restart.NO_READING, "It is off.")
    stale = row("10.48.79.195:2222", 149, 3, "It is old.")
    assert webbridge_restart.draw_table([row("edge", 31, None), stale, off]) == (
        "Server             Web Bridge  Before end  CMA   Before end  Log ends\n"
        "edge               31          2 min       -     -           Jun 20 21:16:00\n"
        "10.48.79.195:2222  149         2 min       3/99  1 min       Jun 20 21:16:00  "
        "Not counted: It is old.\n"
        "off                -           -           -     -           -                "
        "Not counted: It is off."
    )


@pytest.mark.parametrize(
    ("if_leaked", "max_active", "why_not"),
    [
        (None, None, ""),
        (20, None, ""),
        (21, None, "3 active sessions; 20 leaked sessions, fewer than --if-leaked 21"),
        (0, None, ""),
        (None, 3, ""),
        (None, 2, "3 active sessions, more than --max-active 2; 20 leaked sessions"),
        (None, 0, "3 active sessions, more than --max-active 0; 20 leaked sessions"),
        (20, 3, ""),
        (21, 3, "3 active sessions; 20 leaked sessions, fewer than --if-leaked 21"),
        (20, 2, "3 active sessions, more than --max-active 2; 20 leaked sessions"),
        (
            21,
            2,
            "3 active sessions, more than --max-active 2; 20 leaked sessions, fewer than "
            "--if-leaked 21",
        ),
    ],
)
def test_condition_that_forbids_a_restart(
    if_leaked: int | None, max_active: int | None, why_not: str
) -> None:
    assert webbridge_restart.why_not_restart(Figures(23, 3), if_leaked, max_active) == why_not


def test_condition_on_a_single_session() -> None:
    why_not = "1 active session, more than --max-active 0; 1 leaked session"
    assert webbridge_restart.why_not_restart(Figures(2, 1), None, 0) == why_not


# ---- The report of a deployment ------------------------------------------------------------------

AnyServer = Union[SimulatedMMP, str]


def test_combined_server_at_the_hard_limit(run: Run, mmp: SimulatedMMP, log_file: Path) -> None:
    mmp.log = log(149, 14, 17)
    ran = run([mmp], "--sessions")
    assert ran.out == (
        drawn((mmp.address, "149 FULL", "2 min", "14/17", "1 min", ago()))
        + "Leaked: 135 sessions (149 Web Bridge, 14 active CMA).\n"
        + CAUTIONS
    )
    assert (ran.status, ran.err) == (0, "")
    assert (mmp.commands, mmp.passwords) == ([], [PASSWORD])
    assert not log_file.exists()


def test_separate_call_bridges(
    run: Run, known_hosts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second server is both, and is logged in to once. Old counters elsewhere do not count."""
    with SimulatedMMP() as edge, SimulatedMMP() as both, SimulatedMMP() as core:
        edge.log = (web(50) + call(7, 7, ago(9000)) + end()).encode()
        both.log = log(30, 20, 25)
        core.log = (web(100) + call(10, 11) + end()).encode()
        servers = (edge, both, core)
        known_hosts.write_text("".join(f"{server.known_hosts_line}\n" for server in servers))
        callbridges = {1: both.address, 2: core.address}
        monkeypatch.setattr(webbridge_restart, "CALLBRIDGES", callbridges)
        ran = run([edge, both], "--sessions", "-q")
        assert ran.out == (
            drawn(
                (edge.address, "50", "2 min", "-", "-", ago()),
                (both.address, "30", "2 min", "20/25", "1 min", ago()),
                (core.address, "-", "-", "10/11", "1 min", ago()),
            )
            + "Leaked: 50 sessions (80 Web Bridge, 30 active CMA).\n"
        )
    assert [server.passwords for server in servers] == [[PASSWORD]] * 3


def test_all_servers_are_asked_at_the_same_time(run: Run) -> None:
    """Each server holds its login until the other was reached too."""
    with SimulatedMMP(log=log(1, 1, 1)) as first, SimulatedMMP(log=log(2, 1, 1)) as second:
        first.set_up = lambda _: second.wait_for_connections()
        second.set_up = lambda _: first.wait_for_connections()
        assert run([first, second], "--sessions").status == 0


def test_report_without_all_figures_has_the_rows_that_it_has(run: Run, mmp: SimulatedMMP) -> None:
    """The reason for a figure that is missing or stale stands in the row of its server."""
    with SimulatedMMP() as stale, SimulatedMMP() as old, SimulatedMMP() as refusing:
        mmp.log = log(149, 14, 17)
        stale.log = (web(30) + call(10, 11, ago(16)) + end()).encode()
        old.log = log(9, 3, 4, minutes=27 * 60)
        refusing.refuse_channels = True
        ran = run([mmp, stale, old, refusing], "--sessions")
    reasons = {
        stale.address: too_old(CALL, "16 min"),
        old.address: ends(ago(27 * 60), "27 hours ago"),
        refusing.address: "The server refused a session (code 4). Too many sessions may be open.",
    }
    told = [f"Not counted: {reason}" for reason in reasons.values()]
    assert ran.out == drawn(
        (mmp.address, "149 FULL", "2 min", "14/17", "1 min", ago()),
        (stale.address, "30", "2 min", "10/11", "16 min", ago(), told[0]),
        (old.address, "9", "2 min", "3/4", "1 min", ago(27 * 60), told[1]),
        (refusing.address, "-", "-", "-", "-", "-", told[2]),
    )
    summary = " ".join(f"{address}: {reason}" for address, reason in reasons.items())
    assert ran.err == f"{UNCOUNTABLE}{summary}\n"
    assert (ran.status, ran.log) == (1, [])


# ---- On condition --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "why_not"),
    [
        (["--if-leaked", "20"], ""),
        (["--if-leaked", "21"], "3 active sessions; 20 leaked sessions, fewer than --if-leaked 21"),
        (["--max-active", "3"], ""),
        (
            ["--max-active", "2"],
            "3 active sessions, more than --max-active 2; 20 leaked sessions",
        ),
        (["--if-leaked", "0", "--max-active", "3"], ""),
        (
            ["--if-leaked", "21", "--max-active", "0"],
            "3 active sessions, more than --max-active 0; "
            "20 leaked sessions, fewer than --if-leaked 21",
        ),
    ],
    ids=str,
)
def test_conditions(run: Run, mmp: SimulatedMMP, options: list[str], why_not: str) -> None:
    mmp.log = log(23, 3, 4)
    ran = run([mmp], *options)
    told = f"Not restarted: {why_not}."
    assert ran.log == ([told] if why_not else [restarted(mmp)])
    assert mmp.commands == ([] if why_not else [RESTART])
    assert mmp.passwords == [PASSWORD] * (1 if why_not else 2)  # one connection, one purpose
    last_line = told if why_not else "Restarted 1 of 1 server."
    assert ran.out.splitlines()[-1] == last_line
    assert (ran.status, ran.err) == (0, "")


def test_chosen_servers_are_restarted_but_all_are_counted(run: Run, mmp: SimulatedMMP) -> None:
    mmp.log = log(3, 3, 3)
    with SimulatedMMP(log=log(40, 10, 10)) as other:
        ran = run([mmp, other], "1", "--if-leaked", "30", "-q")
        assert other.passwords == [PASSWORD]
    assert (ran.log, ran.out, other.commands) == ([restarted(mmp)], "", [])


# ---- Where the figures cannot be had -------------------------------------------------------------


def assert_nothing_restarted(run: Run, servers: list[AnyServer], reason: str) -> None:
    """A restart that depends on the figures does not happen, and the log says why."""
    ran = run(servers, "--if-leaked", "0")
    sentence = f"Nothing was restarted. {UNCOUNTABLE}{reason}"
    assert (ran.err, ran.log) == (f"{sentence}\n", [sentence])
    assert ran.status == 1
    assert all(server.commands == [] for server in servers if isinstance(server, SimulatedMMP))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("", NO_TIME, id="empty"),
        pytest.param("no log\n", NO_TIME, id="no time"),
        pytest.param(call(1, 1) + end(), NO_WEB, id="no Web Bridge"),
        pytest.param(web(1) + end(), NO_CALL + HINT, id="no Call Bridge"),
        pytest.param(
            web(9) + call(1, 1, ago(16)) + end(), too_old(CALL, "16 min"), id="old Call Bridge"
        ),
        pytest.param(
            web(9, ago(25 * 60)) + call(1, 1) + end(), too_old(WEB, "25 hours"), id="old Web Bridge"
        ),
    ],
)
def test_log_that_cannot_be_counted_on(run: Run, mmp: SimulatedMMP, text: str, reason: str) -> None:
    mmp.log = text.encode()
    assert_nothing_restarted(run, [mmp], f"{mmp.address}: {reason}")


@pytest.mark.parametrize(
    ("minutes", "distance"),
    [
        (27 * 60, "27 hours ago"),
        (100 * 24 * 60, "100 days ago"),
        (-30.5 * 60, f"30 hours {AHEAD}"),  # and less from second to second
    ],
)
def test_log_that_ends_at_another_time(
    run: Run, mmp: SimulatedMMP, minutes: float, distance: str
) -> None:
    """As of a server that was off for months, or whose clock is wrong."""
    mmp.log = log(149, 0, 0, minutes)
    assert_nothing_restarted(run, [mmp], f"{mmp.address}: {ends(ago(minutes), distance)}")


@pytest.mark.parametrize("minutes", [25 * 60, -13 * 60], ids=["ago", "ahead"])
def test_log_that_ends_a_day_off_may_be_of_another_time_zone(
    run: Run, mmp: SimulatedMMP, minutes: float
) -> None:
    mmp.log = log(9, 3, 4, minutes)
    assert run([mmp], "--if-leaked", "6").log == [restarted(mmp)]


def test_counters_at_their_age_limits_count(run: Run, mmp: SimulatedMMP) -> None:
    mmp.log = (web(9, ago(24 * 60)) + call(1, 1, ago(15)) + end()).encode()
    assert run([mmp], "--if-leaked", "8").log == [restarted(mmp)]


def test_every_server_with_trouble_is_named(run: Run, mmp: SimulatedMMP) -> None:
    with SimulatedMMP() as gone:
        address = gone.address
    mmp.log = (web(1) + end()).encode()
    reason = f"{address}: {with_advice(refused(address))} {mmp.address}: {NO_CALL}{HINT}"
    assert_nothing_restarted(run, [address, mmp], reason)


def test_signal_while_the_logs_are_read(run: Run, mmp: SimulatedMMP) -> None:
    """The second server holds its login until the signal has come."""
    mmp.log = log(100, 0, 0)

    def interrupt_and_hang(_: object) -> None:
        signal.raise_signal(signal.SIGTERM)
        stalling.stopped.wait()

    with SimulatedMMP(set_up=interrupt_and_hang) as stalling:
        ran = run([stalling, mmp], "--if-leaked", "1")
    reason = f"{stalling.address}: Cut off by SIGTERM while connecting."
    assert ran.log[0].startswith(f"Nothing was restarted. {UNCOUNTABLE}{reason}")
    assert (ran.status, mmp.commands, stalling.commands) == (143, [], [])


def test_signal_before_a_server_is_reached(
    run: Run, mmp: SimulatedMMP, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(webbridge_restart, "start_job", interrupt)
    ran = run(["10.0.0.1", mmp], "--max-active", "0")
    reason = "10.0.0.1: Cut off by SIGTERM while connecting. "
    reason += f"{mmp.address}: It was not reached."
    assert ran.log == [f"Nothing was restarted. {UNCOUNTABLE}{reason}"]
    assert (ran.status, mmp.connections) == (143, 0)


# ---- How much of a log is read -------------------------------------------------------------------


def test_only_the_end_of_a_large_log_is_read(run: Run, mmp: SimulatedMMP, tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(200 * MIB)
        file.seek(200 * MIB)
        file.write(b"\n" + log(30, 10, 11))
    mmp.log = path
    assert "Leaked: 20 sessions" in run([mmp], "--sessions").out
    assert mmp.bytes_read == MIB


KIB_64 = 1 << 16


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a log be read in steps of 64 KiB instead of 1 MiB, which is quicker."""
    monkeypatch.setattr(webbridge_restart, "MIB", KIB_64)


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize(
    ("distance", "steps"), [(0, 1), (1, 2), (3, 4), (7, 8), (9, 16), (15, 16), (17, 16)]
)
def test_log_is_read_further_back_until_the_counters_are_found(
    run: Run, mmp: SimulatedMMP, distance: int, steps: int
) -> None:
    filler = end().encode()
    mmp.log = filler * (20 * KIB_64 // len(filler)) + web(30).encode()
    mmp.log += filler * (distance * KIB_64 // len(filler)) + (call(10, 11) + end()).encode()
    ran = run([mmp], "--sessions")
    assert mmp.bytes_read == steps * KIB_64
    assert ("Leaked: 20 sessions" in ran.out) is (distance < 16)
    assert ran.status == int(distance > 16)


@pytest.mark.usefixtures("small_steps")
def test_line_that_a_step_cuts_in_two_is_put_together(run: Run, mmp: SimulatedMMP) -> None:
    """Cut behind a time in its middle, the counter's end would look like a line of its own."""
    counter = web(30).encode()
    rest = (call(10, 11) + end()).encode()
    mmp.log = b"x" * KIB_64 + b"\n" + counter + b"-" * (KIB_64 - len(rest) - 20) + b"\n" + rest
    assert "Leaked: 20 sessions" in run([mmp], "--sessions").out
    assert mmp.bytes_read == 2 * KIB_64


@pytest.mark.usefixtures("small_steps")
def test_forged_line_that_begins_where_a_step_does(run: Run, mmp: SimulatedMMP) -> None:
    """The first byte that is read need not be the beginning of a line."""
    forged = web(1).encode()
    rest = (call(10, 11) + end()).encode()
    tail = forged + b"-" * (KIB_64 - len(forged) - len(rest) - 1) + b"\n" + rest
    assert len(tail) == KIB_64
    mmp.log = web(30).encode() + end().encode().rstrip() + b" " + tail
    assert "Leaked: 20 sessions" in run([mmp], "--sessions").out


# ---- Saved logs ----------------------------------------------------------------------------------


def test_saved_logs_are_judged_only_against_their_own_end(
    run: Run, mmp: SimulatedMMP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain and packed, each read once. It takes no password, and logs in to no server."""
    monkeypatch.delenv("MMP_PASSWORD")
    plain, packed = tmp_path / "cms1.log", tmp_path / "cms2.log.gz"
    plain.write_bytes(saved_log(100, 10, 11))
    ancient = web(5, "2019-02-28T21:17:00") + end("2019-03-01T21:16:00")
    packed.write_bytes(gzip.compress(ancient.encode()))
    ran = run([mmp], "--sessions", "--from-logs", str(plain), str(packed), str(plain))
    assert ran.out == (
        drawn(
            (str(plain), "100", "2 min", "10/11", "1 min", "Jun 20 21:16:00"),
            (str(packed), "5", "23 hours", "-", "-", "2019-03-01T21:16:00"),
        )
        + "Leaked: 95 sessions (105 Web Bridge, 10 active CMA).\n"
        + CAUTIONS
    )
    assert (ran.status, ran.err, ran.log, mmp.connections) == (0, "", [], 0)


def error_of_reading(path: Path) -> str:
    """Return what Python says of a file that cannot be unpacked."""
    with pytest.raises((OSError, EOFError, zlib.error)) as raised, gzip.open(path) as file:
        file.read()
    return str(raised.value)


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(saved_log(9, 0, 0))[:-9],
        b"no gzip",
        gzip.compress(b"")[:10] + b"\xff" * 9,
    ],
    ids=["cut short", "not packed", "damaged"],
)
def test_saved_log_that_cannot_be_unpacked(run: Run, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a.gz"
    file.write_bytes(content)
    ran = run([], "--sessions", "--from-logs", str(file))
    reason = f"Cannot read it: {error_of_reading(file)}."
    assert ran.out == drawn((str(file), "-", "-", "-", "-", "-", f"Not counted: {reason}"))
    assert ran.err == f"{UNCOUNTABLE}{file}: {reason}\n"
    assert (ran.status, ran.log) == (1, [])


AT = "Jun 20 21:16:00"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("nothing here\n", f"FILE: {NO_TIME}"),
        (end(AT), f"FILE: {NO_WEB}"),
        (web(3, AT) + end(AT), "There is no log of a Call Bridge."),
        (call(3, 4, AT) + end(AT), "There is no log of a Web Bridge."),
        (
            web(3, "Jun 19 21:15:59") + call(3, 4, AT) + end(AT),
            f"FILE: {too_old(WEB, '24 hours')}",
        ),
        (
            web(3, AT) + call(3, 4, "Jun 20 21:00:59") + end(AT),
            f"FILE: {too_old(CALL, '15 min')}",
        ),
    ],
)
def test_saved_log_that_cannot_be_counted_on(
    run: Run, tmp_path: Path, text: str, problem: str
) -> None:
    file = tmp_path / "a.log"
    file.write_text(text)
    ran = run([], "--sessions", "--from-logs", str(file))
    assert ran.err == f"{UNCOUNTABLE}{problem.replace('FILE', str(file))}\n"
    assert (ran.status, "Leaked" in ran.out, ran.out.count("\n")) == (1, False, 2)


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such pipes")
def test_saved_log_from_a_pipe(run: Run) -> None:
    """As a shell's <(ssh syslog cat cms1.log) gives it."""
    reader, writer = os.pipe()
    os.write(writer, saved_log(100, 10, 11))
    os.close(writer)
    ran = run([], "--sessions", "--from-logs", f"/dev/fd/{reader}")
    os.close(reader)
    assert "Leaked: 90 sessions (100 Web Bridge, 10 active CMA).\n" in ran.out
    assert ran.status == 0


@pytest.mark.usefixtures("small_steps")
def test_forged_line_where_the_reading_of_a_saved_log_begins(run: Run, tmp_path: Path) -> None:
    rest = (call(10, 11) + end()).encode()
    saved = tmp_path / "a.log"
    saved.write_bytes(b"x" * KIB_64 + web(1).encode() + b"-" * 16 * KIB_64 + b"\n" + rest)
    ran = run([], "--sessions", "--from-logs", str(saved))
    assert ran.err == f"{UNCOUNTABLE}There is no log of a Web Bridge.\n"
    assert ran.status == 1


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize(("distance", "found"), [(15, True), (20, False)])
def test_end_of_a_saved_log_is_read(run: Run, tmp_path: Path, distance: int, found: bool) -> None:
    """The Web Bridge counter stands where one piece that is read ends and the next begins."""
    filler = end().encode()
    saved = tmp_path / "a.log"
    saved.write_bytes(
        b"-" * (KIB_64 - 6)
        + b"\n"
        + web(30).encode()
        + filler * (distance * KIB_64 // len(filler))
        + (call(10, 11) + end()).encode()
    )
    ran = run([], "--sessions", "--from-logs", str(saved))
    assert ("Leaked: 20 sessions" in ran.out) is found
    assert ran.status == (0 if found else 1)
