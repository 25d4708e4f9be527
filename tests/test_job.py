"""What a run does and says, through main([...]) over real SSH.

Here stand restarts, checks, the choice of servers, servers at once, host keys that are stored,
signals, a log that is lost, and what is printed. One faulty server between two good ones is a row
in test_faults.py. What is checked before the first connection is in test_setup.py. Counting is in
test_sessions.py. What only a process of its own can show is in test_surroundings.py.
"""

from __future__ import annotations

import datetime
import errno
import os
import re
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from paramiko import Channel

import webbridge_restart
from conftest import Ran, Run, error_of, failed, restarted, unstamped
from simulated_mmp import PASSWORD, SETTINGS, SimulatedMMP, answer

RESTART, CHECK = "webbridge restart", "webbridge"
NOT_FOUND = os.strerror(errno.ENOENT)
MAYBE = "The restart may or may not have happened: check the Web Bridge before you run this again."


def without_seconds(text: str) -> str:
    """Return what was printed, with S for the seconds that each turn took."""
    return re.sub(r"(in|after) \d+\.\d s", r"\1 S s", text)


# ---- Restarting ----------------------------------------------------------------------------------


def test_restarts_every_server_in_order(run: Run) -> None:
    with SimulatedMMP() as first, SimulatedMMP() as second:
        ran = run([first, second])
    assert ran.log == [restarted(first), restarted(second)]
    assert (ran.status, ran.err) == (0, "")
    assert without_seconds(ran.out) == (
        f"[1/2] {first.address} restarted in S s\n"
        f"[2/2] {second.address} restarted in S s\n"
        "Restarted 2 of 2 servers.\n"
    )
    assert first.commands == second.commands == [RESTART]
    assert first.passwords == second.passwords == [PASSWORD]


def test_failure_of_one_server_does_not_keep_the_next_from_its_turn(
    run: Run, mmp: SimulatedMMP
) -> None:
    """A carriage return begins a line, too."""
    with SimulatedMMP(restart=answer(b"SUCCESS: a\r> FAILURE: b\r")) as bad:
        ran = run([bad, mmp])
    reason = "The server answered: FAILURE: b"
    assert ran.log == [*failed(bad, reason), restarted(mmp)]
    assert without_seconds(ran.out) == (
        f"[2/2] {mmp.address} restarted in S s\nRestarted 1 of 2 servers.\n"
    )
    assert without_seconds(ran.err) == f"[1/2] {bad.address} FAILED after S s: {reason}\n"
    assert ran.status == 1


def test_ipv6(run: Run) -> None:
    with SimulatedMMP(host="::1") as mmp:
        assert run([mmp]).log == [restarted(mmp)]


# ---- Choosing servers ----------------------------------------------------------------------------


@pytest.mark.parametrize("choice", ["2", "address"])
def test_restarts_only_the_chosen(run: Run, mmp: SimulatedMMP, choice: str) -> None:
    with SimulatedMMP() as other:
        ran = run([other, mmp], choice.replace("address", mmp.address))
    assert ran.log == [restarted(mmp)]
    assert without_seconds(ran.out) == (
        f"[1/1] {mmp.address} restarted in S s\nRestarted 1 of 1 server.\n"
    )
    assert other.connections == 0


def test_chosen_servers_keep_the_inventorys_order_and_get_one_turn_each(run: Run) -> None:
    with SimulatedMMP() as first, SimulatedMMP() as second:
        ran = run([first, second], "2", second.address, "1")
    assert ran.log == [restarted(first), restarted(second)]
    assert first.commands == second.commands == [RESTART]


@pytest.mark.parametrize("choice", ["3", "0", "cms2.exmaple.com", "10.48.79.19"])
def test_unknown_choice_lists_what_there_is(run: Run, mmp: SimulatedMMP, choice: str) -> None:
    ran = run([mmp, "cms2.example.com"], "1", choice)
    message = f"No server {choice}. WEBBRIDGES has 1 ({mmp.address}), 2 (cms2.example.com)."
    assert (ran.status, ran.out, ran.err, ran.log) == (2, "", message + "\n", [message])
    assert mmp.connections == 0


# ---- Servers at once -----------------------------------------------------------------------------


def test_parallel_has_so_many_under_way_at_once(run: Run) -> None:
    """Two servers hold their answer until both were asked. The third has to wait for one."""
    servers: list[SimulatedMMP] = []
    seen: list[int] = []

    def wait_for_both(channel: Channel) -> None:
        for server in servers[:2]:
            server.wait_for_commands()
        seen.append(servers[2].connections)
        answer()(channel)

    waiting = SimulatedMMP(restart=wait_for_both), SimulatedMMP(restart=wait_for_both)
    with waiting[0] as first, waiting[1] as second, SimulatedMMP() as third:
        servers += [first, second, third]
        ran = run(servers, "--parallel", "2")
    assert sorted(ran.log) == sorted(map(restarted, servers))
    assert (ran.status, seen[0]) == (0, 0)


def test_one_at_a_time_without_parallel(run: Run) -> None:
    """The second server is not asked while the first still holds its answer."""
    with SimulatedMMP() as second:
        seen: list[int] = []

        def look_at_second(channel: Channel) -> None:
            seen.append(second.connections)
            answer()(channel)

        with SimulatedMMP(restart=look_at_second) as first:
            assert run([first, second]).status == 0
    assert seen == [0]


# ---- Checking ------------------------------------------------------------------------------------


def test_check_asks_and_restarts_nothing(run: Run, mmp: SimulatedMMP, log_file: Path) -> None:
    ran = run([mmp], "--check", "-v")
    assert without_seconds(ran.out) == (
        f"[1/1] {mmp.address} OK (Web Bridge enabled) in S s\n"
        "  answered: Enabled                 : true | Interface whitelist     : a:443\n"
        "1 of 1 server ready.\n"
    )
    assert (ran.status, ran.err) == (0, "")
    assert mmp.commands == [CHECK]
    assert not log_file.exists()


def test_check_of_a_server_that_is_not_ready(run: Run, mmp: SimulatedMMP, log_file: Path) -> None:
    with SimulatedMMP(webbridge=answer(SETTINGS.replace(b"true", b"false"))) as off:
        ran = run([off, mmp], "--check")
    reason = (
        "The server does not say that its Web Bridge is enabled, but: "
        "Enabled                 : false | Interface whitelist     : a:443"
    )
    assert without_seconds(ran.err) == f"[1/2] {off.address} FAILED after S s: {reason}\n"
    assert ran.out.splitlines()[-1] == "1 of 2 servers ready."
    assert (ran.status, off.commands, mmp.commands) == (1, [CHECK], [CHECK])
    assert not log_file.exists()


@pytest.mark.parametrize("options", [[], ["--check"]], ids=str)
def test_log_that_cannot_be_written_keeps_the_run_from_its_begin(
    run: Run, mmp: SimulatedMMP, tmp_path: Path, options: list[str]
) -> None:
    path = tmp_path / "nowhere" / "log.txt"
    ran = run([mmp], *options, "--log-file", str(path))
    assert ran.err == f"Cannot write to {path}: {NOT_FOUND}.\n"
    assert (ran.status, mmp.connections) == (2, 0)


# ---- Host keys -----------------------------------------------------------------------------------


def test_new_host_key_is_stored_once_and_then_known(
    run: Run, mmp: SimulatedMMP, tmp_path: Path
) -> None:
    file = tmp_path / "new"
    options = ["--known-hosts", str(file)]
    key = f"ssh-ed25519 {mmp.host_key.fingerprint}"
    unknown = run([mmp], *options)
    reason = f"The host key is not in {file} (which does not exist yet): {key}. No password was "
    reason += "sent. Compare the fingerprint with the server's own, then store it with "
    reason += "--check --accept-new-host-keys."
    assert unknown.log == failed(mmp, reason)
    assert mmp.passwords == []

    stored = run([mmp], *options, "--check", "--accept-new-host-keys")
    assert stored.out.splitlines()[0] == f"New host key of {mmp.address}: {key}"
    known = [run([mmp], *options), run([mmp], *options, "--accept-new-host-keys")]
    assert [ran.log for ran in known] == [[restarted(mmp)]] * 2
    assert "New host key" not in "".join(ran.out for ran in known)
    assert file.read_text() == f"{mmp.known_hosts_line}\n"


@pytest.mark.parametrize("end", ["", "\n"], ids=["without", "with"])
def test_new_host_key_goes_on_a_line_of_its_own(
    run: Run, mmp: SimulatedMMP, known_hosts: Path, end: str
) -> None:
    """With or without an end of line before it."""
    with SimulatedMMP() as other:
        known_hosts.write_text(f"# mine\n{other.known_hosts_line}{end}")
        assert run([other, mmp], "--accept-new-host-keys").status == 0
        expected = f"# mine\n{other.known_hosts_line}\n{mmp.known_hosts_line}\n"
    assert known_hosts.read_text() == expected


def test_new_host_key_is_told_while_sessions_are_counted(
    run: Run, mmp: SimulatedMMP, known_hosts: Path
) -> None:
    known_hosts.touch()
    mmp.log = log_with_counters()
    ran = run([mmp], "--sessions", "--accept-new-host-keys")
    told = f"New host key of {mmp.address}: ssh-ed25519 {mmp.host_key.fingerprint}"
    assert (ran.status, ran.out.splitlines()[0]) == (0, told)


def test_new_host_key_is_told_even_if_the_login_is_refused(
    run: Run, mmp: SimulatedMMP, known_hosts: Path
) -> None:
    known_hosts.touch()
    mmp.password = "another"
    ran = run([mmp], "--check", "--accept-new-host-keys")
    told = f"New host key of {mmp.address}: ssh-ed25519 {mmp.host_key.fingerprint}"
    assert ran.out.splitlines() == [told, "0 of 1 server ready."]
    assert known_hosts.read_text() == f"{mmp.known_hosts_line}\n"


def test_new_host_key_that_cannot_be_stored_gets_no_password(
    run: Run, mmp: SimulatedMMP, tmp_path: Path
) -> None:
    file = tmp_path / "nowhere" / "known_hosts"
    ran = run([mmp], "--accept-new-host-keys", "--known-hosts", str(file))
    reason = f"Cannot write to {file}: {NOT_FOUND}. No password was sent."
    assert ran.log == failed(mmp, reason)
    assert mmp.passwords == []


# ---- One connection, one purpose -----------------------------------------------------------------


def log_with_counters() -> bytes:
    now = f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M:%S}"
    return (
        f"{now} user.info cms1 webbridge: INFO : [DEBUGGING] Stats 149, c:3477, d:3170\n"
        f'{now} user.info cms1 host:server:  INFO : STATS: {{"CMA": "14/17"}}\n'
    ).encode()


def test_server_that_allows_one_session_for_each_connection(run: Run) -> None:
    """The connection for counting has ended before the next one begins."""
    counting_goes_on: list[bool] = []

    def restart(channel: Channel) -> None:
        counting = mmp.transports[0]
        counting.join(20)
        counting_goes_on.append(counting.is_active())
        answer()(channel)

    log = log_with_counters()
    with SimulatedMMP(log=log, restart=restart, seconds_between_channels=20) as mmp:
        ran = run([mmp], "--if-leaked", "1")
        assert ran.log == [restarted(mmp)]
        assert mmp.commands == [RESTART]
        rehearsed = run([mmp], "--if-leaked", "1", "--check")
        assert rehearsed.out.endswith("A run now would restart 1 server.\n")
    assert counting_goes_on == [False]
    assert mmp.commands == [RESTART, CHECK]
    assert (mmp.connections, mmp.passwords) == (4, [PASSWORD] * 4)


# ---- What is printed -----------------------------------------------------------------------------


def test_verbose_shows_the_answer(run: Run, mmp: SimulatedMMP) -> None:
    mmp.restart = answer(b"SUCCESS: a\r\nSUCCESS: \x1b[31mb\r\n")
    out = run([mmp], "--verbose").out
    assert out.splitlines()[1] == r"  answered: SUCCESS: a | SUCCESS: \x1b[31mb"


@pytest.mark.parametrize(
    ("options", "log"), [(["--quiet"], True), (["-q", "--check"], False)], ids=str
)
def test_quiet_says_nothing_of_success(
    run: Run, mmp: SimulatedMMP, options: list[str], log: bool
) -> None:
    ran = run([mmp], *options)
    assert (ran.status, ran.out, ran.err) == (0, "", "")
    assert ran.log == ([restarted(mmp)] if log else [])


def test_quiet_tells_of_failure_and_nobody_tells_the_password(run: Run, mmp: SimulatedMMP) -> None:
    mmp.password = "another"
    ran = run([mmp], "--quiet")
    assert (ran.status, ran.out) == (1, "")
    assert without_seconds(ran.err) == f"[1/1] {mmp.address} FAILED after S s: {ran.log[1]}\n"
    assert PASSWORD not in ran.err


def test_terminal_shows_who_is_waited_for(
    run: Run, mmp: SimulatedMMP, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr(webbridge_restart, "TICK", 0.001)
    out = run([mmp]).out
    waiting = f"Waiting for {mmp.address} ..."
    assert out.startswith(f"\r{waiting:78}\r\r{'':78}\r[1/1] {mmp.address} restarted in")


# ---- The log -------------------------------------------------------------------------------------


def test_stamps_have_microseconds_even_if_they_are_zero(
    run: Run, mmp: SimulatedMMP, monkeypatch: pytest.MonkeyPatch, log_file: Path
) -> None:
    noon = datetime.datetime(2020, 6, 8, 12, tzinfo=datetime.timezone.utc)
    clock = SimpleNamespace(now=lambda zone: noon.astimezone(zone))
    stopped = SimpleNamespace(datetime=clock, timezone=datetime.timezone)
    monkeypatch.setattr(webbridge_restart, "datetime", stopped)
    run([mmp])
    stamped = f"2020-06-08 12:00:00.000000+00:00 {restarted(mmp)}{os.linesep}"
    assert log_file.read_bytes().decode() == stamped


def test_what_is_not_logged_is_told(
    run: Run, mmp: SimulatedMMP, log_file: Path, tmp_path: Path
) -> None:
    """The log later takes lines again, and the exit status does not forget what is lost."""
    away = log_file.with_name("away")

    def take_away(channel: Channel) -> None:
        log_file.rename(away)
        log_file.mkdir()
        answer()(channel)

    def give_back(channel: Channel) -> None:
        log_file.rmdir()
        away.rename(log_file)
        answer()(channel)

    with SimulatedMMP() as second, SimulatedMMP() as third, SimulatedMMP() as fourth:
        second.restart, third.restart = take_away, give_back
        ran = run([mmp, second, third, fourth])
    assert ran.log == [restarted(mmp), restarted(third), restarted(fourth)]
    first, lost = ran.err.splitlines()
    reason = error_of(lambda: tmp_path.open("ab"))
    assert first == f"Cannot write to {log_file}: {reason}. Not logged:"
    assert unstamped(lost) == [restarted(second)]
    assert ran.out.splitlines()[-1] == "Restarted 4 of 4 servers."
    assert ran.status == 1


# ---- Signals -------------------------------------------------------------------------------------

SIGNALS = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}  # and the exit status
NO_SIGHUP = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")


def run_with_signal(run: Run, name: str, *options: str) -> tuple[Ran, SimulatedMMP, SimulatedMMP]:
    """Return a run whose first server gets the signal sent while it restarts, and both servers."""

    def interrupt(channel: Channel) -> None:
        signal.raise_signal(getattr(signal, name))
        mmp.stopped.wait()

    with SimulatedMMP(restart=interrupt) as mmp, SimulatedMMP() as never:
        return run([mmp, never], *options), mmp, never


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=NO_SIGHUP if name == "SIGHUP" else ()) for name in SIGNALS]
)
def test_signal_ends_the_run(run: Run, name: str) -> None:
    ran, mmp, never = run_with_signal(run, name)
    reason = f"Cut off by {name} while waiting for the answer. {MAYBE}"
    ended = f"Ended by {name}. Not attempted: {never.address}"
    assert ran.log == [*failed(mmp, reason), ended]
    assert ran.out == "Restarted 0 of 2 servers.\n"
    assert without_seconds(ran.err) == (
        f"[1/2] {mmp.address} FAILED after S s: {reason}\n{ended}\n"
    )
    assert (ran.status, never.connections) == (SIGNALS[name], 0)


def test_signal_at_the_last_server(run: Run) -> None:
    ran, mmp, _ = run_with_signal(run, "SIGTERM", "1")
    assert ran.log[0] == failed(mmp, "")[0]
    assert ran.log[-1] == "Ended by SIGTERM. Not attempted: none"
    assert ran.status == 143


def test_ignored_signal_stays_ignored(run: Run, mmp: SimulatedMMP) -> None:
    """As nohup does it, and shells with jobs in the background."""

    def restart(channel: Channel) -> None:
        signal.raise_signal(signal.SIGINT)
        answer()(channel)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    mmp.restart = restart
    ran = run([mmp])
    assert (ran.status, ran.log) == (0, [restarted(mmp)])


def test_system_without_sighup(
    run: Run, mmp: SimulatedMMP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Windows is."""
    monkeypatch.delattr(signal, "SIGHUP", raising=False)
    assert run([mmp]).log == [restarted(mmp)]
