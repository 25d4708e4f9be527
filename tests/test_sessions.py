"""Counting leaked sessions: what is read of a log, what is printed, what is restarted."""

from __future__ import annotations

import gzip
import os
import signal
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import webbridge_restart
from conftest import Run, restarted
from simulated_mmp import PASSWORD, SimulatedMMP
from webbridge_restart import CALL, WEB, Counter, parse_log

MIB = 1 << 20


def web(sessions: int, stamp: str = "Jun 20 21:14:00") -> str:
    return (
        f"{stamp} user.info cms1 webbridge: INFO : [DEBUGGING] Stats {sessions}, c:3477, d:3170\n"
    )


def call(active: int, peak: int, stamp: str = "Jun 20 21:15:00") -> str:
    stats = f'{{"callLegsPS": 1, "CMA": "{active}/{peak}", "sip": {{"std": "0/1", "peer": "6/6"}}}}'
    return f"{stamp} user.info cms1 host:server:  INFO : STATS: {stats}\n"


def end(stamp: str = "Jun 20 21:16:00") -> str:
    return f"{stamp} user.info cms1 host:server:  INFO : recording device 1: available\n"


def log(sessions: int, active: int, peak: int) -> bytes:
    return (web(sessions) + call(active, peak) + end()).encode()


CAUTIONS = (
    "This holds only where neither the CMA desktop client nor the iOS client is in use.\n"
    "In a cluster, a single server's difference means nothing.\n"
)


# ---- The report


def test_a_combined_server_at_the_hard_limit(run: Run, mmp: SimulatedMMP) -> None:
    mmp.log = log(149, 14, 17)
    ran = run([mmp], "--sessions")
    width = len(mmp.address)
    assert ran.out == (
        f"{'Server':{width}}  Web Bridge  logged                       CMA    logged\n"
        f"{mmp.address}  149 FULL    Jun 20 21:14:00 (2 min old)  "
        "14/17  Jun 20 21:15:00 (1 min old)\n"
        "Leaked: 135 (149 Web Bridge, 14 active CMA sessions).\n" + CAUTIONS
    )
    assert (ran.status, ran.err, ran.log) == (0, "", [])
    assert (mmp.commands, mmp.passwords) == ([], [PASSWORD])


def test_sessions_does_not_touch_the_log_file(run: Run, mmp: SimulatedMMP, log_file: Path) -> None:
    mmp.log = log(1, 0, 0)
    assert run([mmp], "--sessions").status == 0
    assert not log_file.exists()


def test_in_a_cluster_only_the_sums_count(run: Run) -> None:
    """One Call Bridge has more sessions than its Web Bridge: the other's are among them."""
    with SimulatedMMP(log=log(20, 30, 34)) as first, SimulatedMMP(log=log(60, 10, 12)) as second:
        ran = run([first, second], "--sessions")
    assert "Leaked: 40 (80 Web Bridge, 40 active CMA sessions).\n" in ran.out


def test_counters_that_a_server_should_not_have_do_not_count(
    run: Run, mmp: SimulatedMMP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old lines in the log of a server that has lost its Web Bridge, or its Call Bridge."""
    mmp.log = (web(50) + call(7, 7, "Jun 20 20:00:00") + end()).encode()
    with SimulatedMMP(log=(web(100) + call(10, 11) + end()).encode()) as core:
        monkeypatch.setattr(webbridge_restart, "CALLBRIDGES", {1: core.address})
        known = [mmp, core.address]
        ran = run(known[:1], "--sessions", "--accept-new-host-keys")
    assert "Leaked: 40 (50 Web Bridge, 10 active CMA sessions).\n" in ran.out


def test_leaked_is_never_below_zero(run: Run, mmp: SimulatedMMP) -> None:
    mmp.log = log(3, 5, 5)
    assert "Leaked: 0 (3 Web Bridge, 5 active CMA sessions).\n" in run([mmp], "--sessions").out


def test_separate_call_bridges(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second server is both, and is logged in to once."""
    with SimulatedMMP(log=(web(50) + end()).encode()) as edge, SimulatedMMP() as both:
        both.log = log(30, 20, 25)
        with SimulatedMMP(log=(call(10, 11) + end()).encode()) as core:
            callbridges = {1: both.address, 2: core.address}
            monkeypatch.setattr(webbridge_restart, "CALLBRIDGES", callbridges)
            ran = run([edge, both, core.address][:2], "--sessions", "--accept-new-host-keys")
            rows = [line.split() for line in ran.out.splitlines() if line.startswith("127.")]
    assert "Leaked: 50 (80 Web Bridge, 30 active CMA sessions).\n" in ran.out
    assert [row[0] for row in rows] == [edge.address, both.address, core.address]
    assert rows[0][-2:] == ["-", "-"]
    assert rows[2][1:3] == ["-", "-"]
    assert edge.passwords == both.passwords == core.passwords == [PASSWORD]


def test_all_servers_are_asked_at_the_same_time(run: Run) -> None:
    """Each server holds its login until the other was reached too."""
    with SimulatedMMP(log=log(1, 1, 1)) as first, SimulatedMMP(log=log(2, 1, 1)) as second:
        first.set_up = lambda _: second.wait_for_connections()
        second.set_up = lambda _: first.wait_for_connections()
        assert run([first, second], "--sessions").status == 0


# ---- Where the figures cannot be had


def uncountable(run: Run, servers: list[SimulatedMMP | str], reason: str) -> None:
    """A restart that depends on the figures does not happen, and the log says why."""
    ran = run(servers, "--if-leaked", "0", "--timeout", "5")
    sentence = f"Nothing was restarted: the leaked sessions cannot be counted. {reason}"
    assert (ran.err, ran.log) == (sentence + "\n", [sentence])
    assert ran.status == 1
    assert all(server.commands == [] for server in servers if isinstance(server, SimulatedMMP))


def test_a_server_that_is_down(run: Run, mmp: SimulatedMMP) -> None:
    mmp.log = log(100, 0, 0)
    with SimulatedMMP() as gone:
        address = gone.address
    reason = f"{address}: [Errno None] Unable to connect to port {gone.port} on 127.0.0.1"
    uncountable(run, [mmp, address], reason)


def test_no_web_bridge_counter(run: Run, mmp: SimulatedMMP) -> None:
    mmp.log = (call(1, 1) + end()).encode()
    uncountable(run, [mmp], f"{mmp.address}: Its log has no readable Web Bridge counter.")


def test_no_call_bridge_counter(run: Run, mmp: SimulatedMMP) -> None:
    mmp.log = (web(1) + end()).encode()
    reason = (
        f"{mmp.address}: Its log has no readable Call Bridge counter. "
        "If the Call Bridges are other servers, list them in CALLBRIDGES."
    )
    uncountable(run, [mmp], reason)


def test_a_stale_call_bridge_counter(run: Run, mmp: SimulatedMMP) -> None:
    mmp.log = (web(9) + call(1, 1, "Jun 20 21:00:59") + end()).encode()
    reason = f"{mmp.address}: Its newest Call Bridge counter, Jun 20 21:00:59, is too old."
    uncountable(run, [mmp], reason)


def test_a_call_bridge_counter_of_15_minutes_ago_counts(run: Run, mmp: SimulatedMMP) -> None:
    mmp.log = (web(9, "Jun 19 21:00:00") + call(1, 1, "Jun 20 21:01:00") + end()).encode()
    assert run([mmp], "--if-leaked", "8").log == [restarted(mmp)]


def test_a_server_without_that_log(run: Run, mmp: SimulatedMMP) -> None:
    mmp.log = Path("/nowhere/log")
    ran = run([mmp], "--sessions")
    assert f"{mmp.address}: Its log cannot be read: " in ran.err
    assert (ran.status, ran.log) == (1, [])


def test_an_empty_log(run: Run, mmp: SimulatedMMP) -> None:
    assert run([mmp], "--sessions").status == 1


def test_every_server_with_trouble_is_named(run: Run, mmp: SimulatedMMP) -> None:
    with SimulatedMMP(refuse_channels=True) as refusing:
        no_session = "The server opens no session (code 4): are too many open?"
        none = "Its log has no readable Call Bridge counter."
        hint = "If the Call Bridges are other servers, list them in CALLBRIDGES."
        reason = f"{refusing.address}: {no_session} {mmp.address}: {none} {hint}"
        uncountable(run, [refusing, mmp], reason)


def test_a_signal_while_the_logs_are_read(run: Run, mmp: SimulatedMMP) -> None:
    """The first server is read, the second one holds its login until the signal has come."""
    mmp.log = log(100, 0, 0)

    def hang_and_interrupt(_: object) -> None:
        mmp.wait_for_connections()
        os.kill(os.getpid(), signal.SIGTERM)
        stalling.stopped.wait()

    with SimulatedMMP(set_up=hang_and_interrupt) as stalling:
        ran = run([mmp, stalling], "--if-leaked", "1")
    reason = f"{stalling.address}: Cut off by SIGTERM while connecting."
    assert ran.log[0].startswith("Nothing was restarted: the leaked sessions cannot be counted. ")
    assert ran.log[0].endswith(reason)
    assert (ran.status, mmp.commands, stalling.commands) == (143, [], [])


def test_a_log_that_is_read_too_late_does_not_count(
    run: Run, mmp: SimulatedMMP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread ends between the sums, which lack it, and the question who is missing."""
    cut_off, ended = threading.Event(), threading.Event()
    parse, work = webbridge_restart.parse_log, webbridge_restart.Server.work
    tell = webbridge_restart.Report.print

    def parse_late(text: bytes, cut: bool) -> dict[str, Counter]:
        if b"Stats 7," in text:
            cut_off.wait(20)
        return parse(text, cut)

    def work_to_the_end(server: webbridge_restart.Server, *others: object) -> None:
        work(server, *others)  # type: ignore[arg-type]
        if server.address == slow.address:
            ended.set()

    def print_late(*texts: object) -> None:
        cut_off.set()
        ended.wait(20)
        tell(*texts)  # type: ignore[arg-type]

    monkeypatch.setattr(webbridge_restart, "parse_log", parse_late)
    monkeypatch.setattr(webbridge_restart.Server, "work", work_to_the_end)
    monkeypatch.setattr(webbridge_restart.Report, "print", print_late)
    mmp.log = log(100, 0, 0)
    with SimulatedMMP(log=log(7, 9, 9)) as slow:
        ran = run([mmp, slow], "--if-leaked", "1", "--max-active", "0", "--timeout", "1")
    assert ran.log[0].endswith(f"{slow.address}: Cut off after 1 s while reading the log.")
    assert (ran.status, mmp.commands, slow.commands) == (1, [], [])


# ---- On condition


@pytest.mark.parametrize(
    ("options", "restarts"),
    [
        (["--if-leaked", "20"], True),
        (["--if-leaked", "21"], False),
        (["--max-active", "3"], True),
        (["--max-active", "2"], False),
        (["--if-leaked", "20", "--max-active", "3"], True),
        (["--if-leaked", "21", "--max-active", "3"], False),
        (["--if-leaked", "20", "--max-active", "2"], False),
        (["--if-leaked", "0", "--max-active", "0"], False),
    ],
)
def test_conditions(run: Run, mmp: SimulatedMMP, options: list[str], restarts: bool) -> None:
    mmp.log = log(23, 3, 4)
    ran = run([mmp], *options)
    nothing = "Nothing was restarted: 20 sessions are leaked, and 3 people are in."
    assert ran.log == ([restarted(mmp)] if restarts else [nothing])
    assert mmp.commands == (["webbridge restart"] if restarts else [])
    assert (ran.status, ran.err, mmp.passwords) == (0, "", [PASSWORD])
    assert (f"\n{nothing}\n" in ran.out) is not restarts


def test_people_alone_can_be_the_condition(run: Run, mmp: SimulatedMMP) -> None:
    mmp.log = log(3, 3, 3)
    assert run([mmp], "--max-active", "3").log == [restarted(mmp)]


def test_the_chosen_are_restarted_but_all_are_counted(run: Run, mmp: SimulatedMMP) -> None:
    mmp.log = log(3, 3, 3)
    with SimulatedMMP(log=log(40, 10, 10)) as other:
        ran = run([mmp, other], "1", "--if-leaked", "30", "-q")
    assert (ran.log, ran.out, other.commands) == ([restarted(mmp)], "", [])


# ---- How much of a log is read


def test_only_the_end_of_a_large_log_is_read(run: Run, mmp: SimulatedMMP, tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(200 * MIB)
        file.seek(200 * MIB)
        file.write(b"\n" + log(30, 10, 11))
    mmp.log = path
    assert "Leaked: 20 " in run([mmp], "--sessions").out
    assert mmp.bytes_read == MIB


def test_a_session_that_is_refused_so_soon_after_another_is_opened(
    run: Run, mmp: SimulatedMMP
) -> None:
    """The restart waits a moment after the look at the log, on the same connection."""
    mmp.log = log(100, 0, 0)
    mmp.seconds_between_channels = 0.05
    assert run([mmp], "--if-leaked", "1").log == [restarted(mmp)]


@pytest.mark.parametrize(("distance", "read"), [(3, 4), (9, 16), (17, 16)])
def test_further_back_in_steps(run: Run, mmp: SimulatedMMP, distance: int, read: int) -> None:
    filler = end().encode()
    mmp.log = filler * (20 * MIB // len(filler)) + web(30).encode()
    mmp.log += filler * (distance * MIB // len(filler)) + (call(10, 11) + end()).encode()
    ran = run([mmp], "--sessions")
    assert mmp.bytes_read == read * MIB
    assert ("Leaked: 20 " in ran.out) == (distance < 16)
    assert ran.status == int(distance > 16)


def test_a_line_that_a_step_cuts_in_two_is_put_together(run: Run, mmp: SimulatedMMP) -> None:
    """Cut behind a time in its middle, the counter's end would look like a line of its own."""
    counter = web(30).encode()
    rest = (call(10, 11) + end()).encode()
    mmp.log = b"x" * MIB + b"\n" + counter + b"-" * (MIB - len(rest) - 20) + b"\n" + rest
    assert "Leaked: 20 " in run([mmp], "--sessions").out
    assert mmp.bytes_read == 2 * MIB


def test_a_forged_line_that_begins_where_a_step_does(run: Run, mmp: SimulatedMMP) -> None:
    """What stands at the first byte that is read need not be a line's beginning."""
    forged = web(1).encode()
    rest = (call(10, 11) + end()).encode()
    tail = forged + b"-" * (MIB - len(forged) - len(rest) - 1) + b"\n" + rest
    assert len(tail) == MIB
    mmp.log = web(30).encode() + end().encode().rstrip() + b" " + tail
    assert "Leaked: 20 " in run([mmp], "--sessions").out


# ---- The lines


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
    assert parse_log(line.encode())[WEB].figures == (149,)
    assert parse_log(line.encode() + b"\r\n")[WEB].figures == (149,)


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
        assert parse_log((line + stats).encode(encoding))[CALL].figures == (14, 17)


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
        "STATS: {" + '"a":[' * 5000,
        'STATS: ["CMA", "1/2"]',
    ],
)
def test_after_an_unreadable_line_the_one_before_it_counts(unreadable: str) -> None:
    text = call(3, 4) + f"Jun 20 21:16:00 user.info cms1 host:server: INFO : {unreadable}\n"
    assert parse_log(text.encode()) == {CALL: Counter((3, 4), "Jun 20 21:15:00", 60.0)}


def test_a_web_bridge_count_below_zero_is_none() -> None:
    assert parse_log((web(7) + web(-1)).encode())[WEB].figures == (7,)


@pytest.mark.parametrize(
    "text",
    [
        "webbridge: INFO : [DEBUGGING] Stats 0, c:1, d:1",
        "Jun 20 21:16:00 user.info cms1 webbridge: INFO : [DEBUGGING] Stats 0, c:1, d:1",
        'host:server: INFO : STATS: {"CMA": "0/0"}',
    ],
)
@pytest.mark.parametrize("before", ["guest login request: name ", "", "chat from x: "])
def test_what_a_client_sends_is_no_counter(before: str, text: str) -> None:
    forged = f"Jun 20 21:15:30 user.info cms1 host:server: INFO : {before}{text}\n"
    found = parse_log((web(30) + call(10, 11) + forged).encode())
    assert (found[WEB].figures, found[CALL].figures) == ((30,), (10, 11))


def test_another_process_that_speaks_so_is_no_counter() -> None:
    swapped = web(5).replace("webbridge", "host:server"), call(1, 1).replace("server", "webbridge")
    assert parse_log("".join(swapped).encode()) == {}


@pytest.mark.parametrize(
    ("counted", "last", "minutes"),
    [
        ("Dec 31 23:58:00", "Jan  1 00:01:00", 3),
        ("Jun  1 00:00:00", "Jun 20 00:00:00", 19 * 24 * 60),
        ("2023-12-31T23:58:00.5", "2024-01-01T00:01:00.1", 3),
        ("Feb 28 23:59:00", "Mar  1 00:01:00", 24 * 60 + 2),
        ("Jun 20 21:16:01", "Jun 20 21:15:01", 1),
    ],
)
def test_age_against_the_last_line(counted: str, last: str, minutes: int) -> None:
    found = parse_log((call(1, 2, counted) + end(last)).encode())
    assert found[CALL].age == minutes * 60


def test_a_date_that_is_none_does_not_count() -> None:
    for stamp in ("Jun 31 21:15:00", "Foo 31 21:15:00", "2023-02-29T21:15:00"):
        found = parse_log((call(1, 2) + call(8, 9, stamp) + end()).encode())
        assert found[CALL].figures == (1, 2)


def test_a_last_line_whose_date_is_none_is_passed_over() -> None:
    found = parse_log((call(1, 2) + end() + end("Jun 31 21:15:00")).encode())
    assert found[CALL].age == 60


COUNTERS = st.sampled_from([web(5), call(1, 2), end(), '{"CMA": "1/2"}', "STATS: {", "\n", "<14>"])


@given(st.lists(COUNTERS.map(str.encode) | st.binary(max_size=30), max_size=20).map(b"".join))
def test_the_parser_never_raises(text: bytes) -> None:
    for bridge, counter in parse_log(text).items():
        assert len(counter.figures) == {WEB: 1, CALL: 2}[bridge]
        assert list(counter.figures) == sorted(counter.figures)
        assert counter.age >= 0


@given(
    st.integers(0, 10**9 - 1),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.binary(max_size=200).map(lambda noise: noise.replace(b"\n", b"")),
)
def test_the_newest_counters_are_found_in_any_noise(
    sessions: int, active: int, more: int, noise: bytes
) -> None:
    text = noise + b"\n" + log(sessions, active, active + more) + noise
    found = parse_log(text)
    assert (found[WEB].figures, found[CALL].figures) == ((sessions,), (active, active + more))


# ---- Saved logs


def test_saved_logs_plain_and_packed(run: Run, tmp_path: Path) -> None:
    plain, packed = tmp_path / "cms1.log", tmp_path / "cms2.log.gz"
    plain.write_bytes(b"x" * (18 * MIB) + b"\n" + log(100, 10, 11))
    packed.write_bytes(gzip.compress((web(5) + end()).encode()))
    ran = run([], "--sessions", "--from-logs", str(plain), str(packed), str(plain))
    assert "Leaked: 95 (105 Web Bridge, 10 active CMA sessions).\n" in ran.out
    assert f"\n{plain}     100         Jun 20 21:14:00 (2 min old)  10/11  " in ran.out
    assert (ran.status, ran.err, ran.log) == (0, "", [])


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.gz", gzip.compress(log(9, 0, 0))[:-9], "Its log cannot be read: "),
        ("a.gz", b"no gzip", "Its log cannot be read: "),
        ("a.gz", gzip.compress(b"")[:10] + b"\xff" * 9, "Its log cannot be read: Error -3 while "),
        ("a.log", b"nothing here\n", "Its log has no readable Call Bridge counter.\n"),
        ("a.log", (web(3) + end()).encode(), "It takes a Web Bridge's log and a Call Bridge's."),
    ],
)
def test_saved_logs_that_do_not_do(
    run: Run, tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(content)
    ran = run([], "--from-logs", str(tmp_path / name))
    assert ran.err.startswith("Nothing was restarted: the leaked sessions cannot be counted. ")
    assert reason in ran.err
    assert (ran.status, "Leaked" in ran.out) == (1, False)


def test_a_saved_log_that_is_not_there(run: Run, tmp_path: Path) -> None:
    ran = run([], "--from-logs", str(tmp_path / "none"))
    assert f"{tmp_path / 'none'}: Its log cannot be read: [Errno 2] No such file" in ran.err
    assert ran.status == 1


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such pipes")
def test_a_saved_log_from_a_pipe(run: Run) -> None:
    """As a shell's <(ssh syslog cat cms1.log) gives it."""
    reader, writer = os.pipe()
    os.write(writer, log(100, 10, 11))
    os.close(writer)
    ran = run([], "--from-logs", f"/dev/fd/{reader}")
    os.close(reader)
    assert "Leaked: 90 (100 Web Bridge, 10 active CMA sessions).\n" in ran.out
    assert ran.status == 0


def test_a_forged_line_that_begins_where_a_saved_log_is_read_from(run: Run, tmp_path: Path) -> None:
    rest = (call(10, 11) + end()).encode()
    saved = tmp_path / "a.log"
    saved.write_bytes(b"x" * MIB + web(1).encode() + b"-" * 16 * MIB + b"\n" + rest)
    ran = run([], "--from-logs", str(saved))
    assert "It takes a Web Bridge's log and a Call Bridge's." in ran.err
    assert ran.status == 1


@pytest.mark.parametrize(("distance", "found"), [(15, True), (20, False)])
def test_so_much_of_a_saved_logs_end_is_read(
    run: Run, tmp_path: Path, distance: int, found: bool
) -> None:
    """The Web Bridge's counter stands where one piece that is read ends and the next begins."""
    filler = end().encode()
    saved = tmp_path / "a.log"
    saved.write_bytes(
        b"-" * (MIB - 6)
        + b"\n"
        + web(30).encode()
        + filler * (distance * MIB // len(filler))
        + (call(10, 11) + end()).encode()
    )
    ran = run([], "--from-logs", str(saved))
    assert ("Leaked: 20 " in ran.out) is found
    assert ran.status == (0 if found else 1)
