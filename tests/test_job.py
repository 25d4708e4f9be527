"""The job over real SSH: what the log says, what the servers received, what the exit status is."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from paramiko import Channel

import webbridge_restart
from conftest import Run, failed, restarted, unstamped
from simulated_mmp import PASSWORD, Action, SimulatedMMP, answer, rsa_key


def test_restarts_every_server_in_order(run: Run) -> None:
    with SimulatedMMP() as first, SimulatedMMP() as second:
        ran = run([first, second])
    assert ran.log == [restarted(first), restarted(second)]
    assert ran.status == 0
    assert ran.err == ""
    assert first.commands == second.commands == ["webbridge restart"]
    assert first.passwords == second.passwords == [PASSWORD]


def test_one_servers_failure_does_not_keep_the_next_from_its_turn(
    run: Run, mmp: SimulatedMMP
) -> None:
    with SimulatedMMP(restart=answer(b"SUCCESS: a\r\nFAILURE: b\r\n")) as bad:
        ran = run([bad, mmp])
    assert ran.log == [*failed(bad, "The server answered: FAILURE: b"), restarted(mmp)]
    assert ran.status == 1


def test_what_comes_on_the_error_stream_counts(run: Run) -> None:
    def act(channel: Channel) -> None:
        channel.sendall_stderr(b"FAILURE: on the other stream\n")
        answer()(channel)

    with SimulatedMMP(restart=act) as mmp:
        ran = run([mmp])
    reason = "FAILURE: on the other stream | SUCCESS: Webbridge restarted"
    assert ran.log == failed(mmp, f"The server answered: {reason}")


@pytest.mark.parametrize("choice", ["2", "address"])
def test_restarts_only_the_chosen(run: Run, mmp: SimulatedMMP, choice: str) -> None:
    with SimulatedMMP() as other:
        ran = run([other, mmp], choice.replace("address", mmp.address))
    assert ran.log == [restarted(mmp)]
    assert other.connections == 0


def test_the_chosen_keep_the_inventorys_order_and_get_one_turn_each(run: Run) -> None:
    with SimulatedMMP() as first, SimulatedMMP() as second:
        ran = run([first, second], "2", second.address, "1")
    assert ran.log == [restarted(first), restarted(second)]
    assert first.commands == second.commands == ["webbridge restart"]


@pytest.mark.parametrize(
    ("wanted", "nearest"), [("13", "1"), ("cms2.exmaple.com", "cms2.example.com")]
)
def test_an_unknown_choice_names_the_nearest(run: Run, wanted: str, nearest: str) -> None:
    ran = run(["10.48.79.194", "cms2.example.com"], wanted)
    message = f"WEBBRIDGES has no server {wanted}. The nearest is {nearest}."
    assert (ran.status, ran.err, ran.log) == (2, message + "\n", [message])


def test_parallel_has_so_many_under_way_at_once(run: Run) -> None:
    """Both servers hold their answer until the other was asked too."""
    servers: list[SimulatedMMP] = []

    def wait_for_all(channel: Channel) -> None:
        for server in servers:
            server.wait_for_commands()
        answer()(channel)

    with SimulatedMMP(restart=wait_for_all) as first, SimulatedMMP(restart=wait_for_all) as second:
        servers += [first, second]
        ran = run(servers, "--parallel", "2")
    assert sorted(ran.log) == sorted([restarted(first), restarted(second)])
    assert ran.status == 0


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


def test_rsa_host_key_and_ipv6(run: Run) -> None:
    with SimulatedMMP(host_key=rsa_key()) as old, SimulatedMMP(host="::1") as ipv6:
        ran = run([old, ipv6])
    assert ran.log == [restarted(old), restarted(ipv6)]


def test_check_asks_and_restarts_nothing(run: Run, mmp: SimulatedMMP) -> None:
    ran = run([mmp], "--check", "-v")
    took = ran.out.split("Enabled: true  ")[1].split(" s")[0]
    assert ran.out == (
        f"[1/1] {mmp.address} Enabled: true  {took} s\n"
        "  answered: Enabled                 : true | Interface whitelist     : a:443\n"
        "Checked: 1 of 1.\n"
    )
    assert (ran.status, ran.err, ran.log) == (0, "", [])
    assert mmp.commands == ["webbridge"]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (
            answer(b"Enabled                 : false\n"),
            "The server does not say that its Web Bridge is enabled, but: "
            "Enabled                 : false",
        ),
        (
            answer(b"Unknown command: webbridge\n", 1),
            "The server answered: Unknown command: webbridge (exit status 1) "
            "CMS 3.0 and newer have no Web Bridge 2.",
        ),
        (answer(b""), "The server does not say that its Web Bridge is enabled, but: nothing"),
    ],
)
def test_check_fails_where_there_is_nothing_to_restart(
    run: Run, reply: Action, reason: str
) -> None:
    with SimulatedMMP(webbridge=reply) as mmp:
        ran = run([mmp], "--check")
    assert ran.err.endswith(f"s: {reason}\n")
    assert (ran.status, ran.log, mmp.commands) == (1, [], ["webbridge"])


def test_check_finds_out_whether_the_log_can_be_written(run: Run, mmp: SimulatedMMP) -> None:
    ran = run([mmp], "--check", "--log-file", "/nowhere/log.txt")
    assert ran.err == "Cannot use /nowhere/log.txt: No such file or directory.\n"
    assert (ran.status, mmp.connections) == (2, 0)


def test_new_host_keys_are_stored_once_and_then_known(run: Run, mmp: SimulatedMMP) -> None:
    unknown = run([mmp.address])
    key = f"ssh-ed25519 {mmp.host_key.fingerprint}"
    reason = f"The server's host key is not known: {key}. Compare it with the server's own, "
    reason += "then store it with --check --accept-new-host-keys."
    assert unknown.log == failed(mmp, reason)
    assert mmp.passwords == []
    first = run([mmp.address], "--accept-new-host-keys")
    assert f"New host key of {mmp.address}: {key}\n" in first.out
    second = run([mmp.address], "--accept-new-host-keys")
    assert "New host key" not in second.out
    assert (first.status, second.status) == (0, 0)


def test_a_new_host_key_goes_on_a_line_of_its_own(
    run: Run, mmp: SimulatedMMP, known_hosts: Path
) -> None:
    with SimulatedMMP() as other:
        known_hosts.write_text(f"# mine\n{other.known_hosts_line}")
        assert run([other, mmp], "--accept-new-host-keys").status == 0
        expected = f"# mine\n{other.known_hosts_line}\n{mmp.known_hosts_line}\n"
    assert known_hosts.read_text() == expected


def test_a_new_host_key_that_cannot_be_stored_gets_no_password(run: Run, mmp: SimulatedMMP) -> None:
    options = ["--accept-new-host-keys", "--known-hosts", "/nowhere/known_hosts"]
    ran = run([mmp], *options)
    assert ran.log == failed(mmp, f"Cannot write to {options[2]}: No such file or directory.")
    assert mmp.passwords == []


def test_verbose_shows_the_answer(run: Run, mmp: SimulatedMMP) -> None:
    assert "\n  answered: SUCCESS: Webbridge restarted\n" in run([mmp], "--verbose").out


def test_quiet_says_nothing_of_success(run: Run, mmp: SimulatedMMP) -> None:
    ran = run([mmp], "--quiet")
    assert (ran.status, ran.out, ran.err, ran.log) == (0, "", "", [restarted(mmp)])


def test_quiet_tells_of_failure(run: Run, mmp: SimulatedMMP) -> None:
    mmp.password = "another"
    ran = run([mmp], "--quiet")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith(f"[1/1] {mmp.address} FAILED  ")
    assert ran.err.endswith(f"Log in by hand: ssh -p {mmp.port} admin@127.0.0.1\n")
    assert PASSWORD not in ran.err + "".join(ran.log)


@pytest.mark.skipif(os.name != "posix", reason="Windows ends a process at once")
def test_a_signal_ends_the_run(run: Run) -> None:
    def interrupt(channel: Channel) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        mmp.stopped.wait()

    with SimulatedMMP(restart=interrupt) as mmp, SimulatedMMP() as never:
        ran = run([mmp, never])
    reason = "Cut off by SIGTERM while waiting for the answer to 'webbridge restart'. "
    reason += "The restart may or may not have happened: look before you repeat it."
    ended = f"Ended by SIGTERM. Not attempted: {never.address}"
    assert ran.log == [*failed(mmp, reason), ended]
    assert ran.out == "Restarted: 0 of 2.\n"
    assert (ran.status, never.connections) == (143, 0)


def test_a_system_without_sighup(
    run: Run, mmp: SimulatedMMP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Windows is."""
    monkeypatch.delattr(signal, "SIGHUP", raising=False)
    assert run([mmp]).log == [restarted(mmp)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_what_the_log_does_not_take_is_told(run: Run, mmp: SimulatedMMP) -> None:
    ran = run([mmp], "--log-file", "/dev/full")
    lost = "/dev/full takes no lines: No space left on device. Lost:\n"
    assert ran.err.startswith(lost)
    assert unstamped(ran.err[len(lost) :].rstrip("\n")) == [restarted(mmp)]
    assert (ran.status, mmp.commands) == (1, ["webbridge restart"])


def test_a_log_that_takes_lines_again(run: Run, mmp: SimulatedMMP, log_file: Path) -> None:
    """What is lost meanwhile leaves no trace in it, and the exit status does not forget."""
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
    assert unstamped(ran.err.splitlines()[1]) == [restarted(second)]
    assert ran.status == 1


def test_the_last_line_counts(run: Run, mmp: SimulatedMMP) -> None:
    with SimulatedMMP(refuse_channels=True) as bad:
        ran = run([mmp, bad])
    assert ran.out.splitlines()[-1] == "Restarted: 1 of 2."


def test_a_terminal_shows_who_is_waited_for(
    run: Run, mmp: SimulatedMMP, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    out = run([mmp]).out
    assert f"\r{mmp.address} ...".ljust(79) in out
    assert f"\r{'':78}\r[1/1] {mmp.address} restarted" in out


def test_stamps_have_microseconds_even_where_they_are_zero(
    run: Run, mmp: SimulatedMMP, monkeypatch: pytest.MonkeyPatch, log_file: Path
) -> None:
    class Noon(webbridge_restart.datetime.datetime):
        @classmethod
        def now(cls, tz: object = None) -> object:  # type: ignore[override]
            return cls(2020, 6, 8, 12, 0, 0, 0, webbridge_restart.datetime.timezone.utc)

    monkeypatch.setattr(webbridge_restart.datetime, "datetime", Noon)
    run([mmp])
    stamped = f"2020-06-08 12:00:00.000000+00:00 {restarted(mmp)}\n"
    assert log_file.read_text() == stamped
