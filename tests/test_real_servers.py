"""The script against real SSH servers: OpenSSH's sshd and dropbear.

The servers are real, and so is how they start a command and end it. Only the command is not an
MMP's: a few lines of shell that each test writes.
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import paramiko
import pytest

import webbridge_restart
from conftest import CISCO, Clock, restarted, unstamped
from real_servers import USERNAME, RealServer, RealServers, why_not

WHY_NOT = why_not()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)

REPLY = CISCO.splitlines()
SILENCE = "exec sleep 600"  # it is ended with the servers
CLOCK = Clock()
BOTH = pytest.mark.parametrize("name", ["sshd", "dropbear"])
SSHD = {  # types and bits of the host keys, and settings
    "sshd": (
        {"rsa": 2048, "ecdsa": 256, "ed25519": 256},
        ["UsePAM no", "Subsystem sftp internal-sftp"],
    ),
    "sshd_asks": (
        {"ed25519": 256},
        ["UsePAM yes", "PasswordAuthentication no", "KbdInteractiveAuthentication yes"],
    ),
}
FULL_LOGIN = {
    "sshd": ["Accepted password for"],
    "sshd_asks": ["Accepted keyboard-interactive/pam for"],
    "dropbear": ["Password auth succeeded"],
}
WRONG_LOGIN = {"sshd": "Failed password for", "dropbear": "Bad password attempt"}

# ---- The servers, and a run on one of them -------------------------------------------------------

RunOn = Callable[..., "Ran"]
Start = Callable[[str], RealServer]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServers]:
    with RealServers(tmp_path_factory.mktemp("real")) as machine:
        yield machine


@pytest.fixture(scope="module")
def start(machine: RealServers) -> Start:
    """Return the server of this name, which runs from the first test that needs it."""

    @functools.cache
    def start_once(name: str) -> RealServer:
        return machine.sshd(name, *SSHD[name]) if name in SSHD else machine.dropbear(name)

    return start_once


class Ran(NamedTuple):
    """What a run left behind, here and on the server."""

    address: str
    status: int
    log: list[str]
    out: str
    commands: list[str]
    logins: list[str]


@pytest.fixture
def run_on(
    machine: RealServers,
    start: Start,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> RunOn:
    """Run main() on the server of this name, where the command is these lines of shell."""
    monkeypatch.setenv("MMP_PASSWORD", machine.password)
    monkeypatch.setattr(webbridge_restart, "MMP_USERNAME", USERNAME)
    known_hosts, log_file = tmp_path / "known_hosts", tmp_path / "log.txt"
    commands = machine.home / "commands"

    def run_once(name: str, shell: str, *options: str, known: str = "") -> Ran:
        server = start(name)
        monkeypatch.setattr(webbridge_restart, "WEBBRIDGES", {1: server.address})
        known_hosts.write_text(known or server.known_hosts_line("ssh-ed25519"))
        (machine.home / "snippet").write_text(shell)
        for old in (machine.home / "go", log_file):
            old.unlink(missing_ok=True)
        commands.write_text("")
        commands.chmod(0o666)
        logins_before = len(server.logins())
        files = ["--known-hosts", str(known_hosts), "--log-file", str(log_file)]
        status = webbridge_restart.main([*files, *options])
        log = unstamped(log_file.read_text()) if log_file.exists() else []
        received, logins = commands.read_text().splitlines(), server.logins()[logins_before:]
        return Ran(server.address, status, log, capsys.readouterr().out, received, logins)

    return run_once


def say(*lines: str) -> str:
    return "".join(f"echo '{line}'\n" for line in lines)


def check_restarted(ran: Ran) -> None:
    assert (ran.log, ran.status) == ([restarted(ran.address)], 0)
    assert ran.commands == ["webbridge restart"]


def check_failed(ran: Ran, in_doubt: bool) -> None:
    assert ran.log[0] == f"Failed to restart webbridge on server {ran.address}. Error:"
    assert ["may or may not have happened" in line for line in ran.log[1:]] == [in_doubt], ran.log
    assert ran.status == 1


# ---- Logging in ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FULL_LOGIN)
def test_restarted_with_one_command_and_one_password(run_on: RunOn, name: str) -> None:
    ran = run_on(name, say(*REPLY))
    check_restarted(ran)
    assert ran.logins == FULL_LOGIN[name]


@BOTH
def test_wrong_password_is_sent_once(
    run_on: RunOn, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("MMP_PASSWORD", "wrong")
    ran = run_on(name, say(*REPLY))
    check_failed(ran, in_doubt=False)
    assert (ran.commands, ran.logins) == ([], [WRONG_LOGIN[name]])


@pytest.mark.parametrize("key_type", ["ecdsa-sha2-nistp256", "ssh-rsa"])
def test_known_host_key_is_another_of_three(run_on: RunOn, start: Start, key_type: str) -> None:
    known = start("sshd").known_hosts_line(key_type)
    check_restarted(run_on("sshd", say(*REPLY), known=known))


def test_changed_host_key_gets_neither_password_nor_command(run_on: RunOn, start: Start) -> None:
    right, wrong = (start(each).host_keys["ssh-ed25519"] for each in ("sshd", "dropbear"))
    known = start("sshd").known_hosts_line("ssh-ed25519").replace(right, wrong)
    ran = run_on("sshd", say(*REPLY), known=known)
    check_failed(ran, in_doubt=False)
    assert (ran.commands, ran.logins) == ([], [])


# ---- How an answer ends --------------------------------------------------------------------------


YES, NO, MAYBE = "restarted", "failed", "may or may not have happened"


def check(ran: Ran, told: str) -> None:
    assert ran.commands == ["webbridge restart"]
    if told == YES:
        check_restarted(ran)
    else:
        check_failed(ran, in_doubt=told == MAYBE)


@pytest.mark.parametrize(
    ("then", "told"),
    [("", YES), ("sleep 0.2; echo FAILURE: no; exit 0", NO), ("drop_connection", MAYBE)],
)
@BOTH
def test_command_that_reads_to_our_end_of_file(
    run_on: RunOn, name: str, then: str, told: str
) -> None:
    check(run_on(name, f"{say(*REPLY)} cat >/dev/null; {then}"), told)


@pytest.mark.parametrize("lines", [0, 1, 2, 3])
@BOTH
@pytest.mark.parametrize(
    ("then", "told"),
    [
        ("exit 0", YES),
        ("exit 1", NO),
        ("echo FAILURE: no; exit 0", NO),
        ("drop_connection", MAYBE),
        (SILENCE, MAYBE),
    ],
)
def test_reply_that_is_cut_after_a_line(
    run_on: RunOn,
    machine: RealServers,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    lines: int,
    then: str,
    told: str,
) -> None:
    """Silence lasts until the time of the server is up, for which the clock jumps."""
    CLOCK.use(monkeypatch)

    def go_on() -> None:
        (machine.home / "go").touch()
        if then == SILENCE:
            CLOCK.time_is_up(None)

    sent = say(*REPLY[:lines])
    size = sum(len(line) + 1 for line in REPLY[:lines])
    call_when_heard(monkeypatch, size, go_on)
    check(run_on(name, f"{sent} wait_for_go; {then}"), told)


def call_when_heard(
    monkeypatch: pytest.MonkeyPatch, wanted: int, action: Callable[[], None]
) -> None:
    """Call it when the script knows that its command runs, and has so many bytes of the reply."""
    exec_command, recv = paramiko.Channel.exec_command, paramiko.Channel.recv
    heard = {"reply to exec": 0, "bytes": 0}

    def note(what: str, amount: int) -> None:
        heard[what] += amount
        if heard["reply to exec"] and heard["bytes"] >= wanted:
            action()

    def exec_command_and_note(channel: paramiko.Channel, command: str) -> None:
        exec_command(channel, command)
        note("reply to exec", 1)

    def recv_and_note(channel: paramiko.Channel, size: int) -> bytes:
        piece = recv(channel, size)
        note("bytes", len(piece))
        return piece

    monkeypatch.setattr(paramiko.Channel, "exec_command", exec_command_and_note)
    monkeypatch.setattr(paramiko.Channel, "recv", recv_and_note)


# ---- Counting ------------------------------------------------------------------------------------


def log_line(process: str, text: str) -> str:
    now = datetime.datetime.now(datetime.timezone.utc)
    return f"{now:%Y-%m-%dT%H:%M:%S}.000 user.info cms1 {process}: INFO : {text}\n"


@BOTH
def test_sessions_of_a_long_log(run_on: RunOn, machine: RealServers, name: str) -> None:
    """2.5 MiB follow the counters."""
    web = log_line("webbridge", "[DEBUGGING] Stats 149, c:3477, d:3170")
    call = log_line("host:server", 'STATS: {"callLegs": "20/24", "CMA": "14/17"}')
    other = log_line("host:server", "recording device 1: available (1 recordings)")
    (machine.home / "log").write_text(web + call + other * ((5 << 19) // len(other)))
    ran = run_on(name, "exit 1", "--sessions", "--quiet")
    assert ran.out.splitlines()[-1] == "Leaked: 135 sessions (149 Web Bridge, 14 active CMA)."
    assert (ran.status, ran.log, ran.commands) == (0, [], [])
