"""The script against real SSH servers: OpenSSH's sshd and dropbear.

The servers are real, and so is how they start a command and end it. Only the command is not an
MMP's: a few lines of shell that each test writes.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator

from pytest import MonkeyPatch, TempPathFactory, fixture, mark

import webbridge_restart
from conftest import CISCO, DOUBT, Run, failed, restarted
from real_servers import EXPIRED, USERNAME, RealServers, why_not

WHY_NOT = why_not()
pytestmark = mark.skipif(bool(WHY_NOT), reason=WHY_NOT)

BOTH = mark.parametrize("name", ["sshd", "dropbear"])
LINES = [f"echo '{line}'\n" for line in CISCO.splitlines()]
REPLY = "".join(LINES)
COMMAND = ["webbridge restart"]
YES, NO, MAYBE = "restarted", "failed", "may or may not have happened"


@fixture(scope="module")
def machine(tmp_path_factory: TempPathFactory) -> Iterator[RealServers]:
    with RealServers(tmp_path_factory.mktemp("real")) as machine:
        yield machine


@fixture(autouse=True)
def _account(machine: RealServers, run: Run, monkeypatch: MonkeyPatch) -> None:
    """The account of the servers, instead of that of the fixture run."""
    monkeypatch.setenv("MMP_PASSWORD", machine.password)
    monkeypatch.setattr(webbridge_restart, "MMP_USERNAME", USERNAME)


def run_on(
    name: str, machine: RealServers, run: Run, shell: str = REPLY
) -> tuple[str, list[str], list[str]]:
    """Return what is told of the server, and the commands and the logins that it got."""
    machine.prepare(shell)
    server = machine.servers[name]
    ran = run([server])
    if ran.log == [restarted(server)]:
        told = YES
    else:
        assert ran.log == failed(server, ran.log[1])
        told = MAYBE if DOUBT in ran.log[1] else NO
    assert ran.status == (0 if told == YES else 1)
    return told, machine.commands(), server.logins()


# ---- Logging in ----------------------------------------------------------------------------------

LOGINS = {
    "sshd": "Accepted password for",
    "sshd that asks": "Accepted keyboard-interactive/pam for",
    "dropbear": "Password auth succeeded",
}
WRONG_LOGINS = {"sshd": "Failed password for", "dropbear": "Bad password attempt"}


@mark.parametrize("name", LOGINS)
def test_one_command_and_one_password(name: str, machine: RealServers, run: Run) -> None:
    assert run_on(name, machine, run) == (YES, COMMAND, [LOGINS[name]])


@BOTH
def test_wrong_password_is_sent_once(
    name: str, machine: RealServers, run: Run, monkeypatch: MonkeyPatch
) -> None:
    monkeypatch.setenv("MMP_PASSWORD", "wrong")
    assert run_on(name, machine, run) == (NO, [], [WRONG_LOGINS[name]])


def test_expired_password_is_no_answer_to_the_next_question(
    machine: RealServers, run: Run, monkeypatch: MonkeyPatch
) -> None:
    """sshd asks for it again, then for a new one, and begins again."""
    monkeypatch.setattr(webbridge_restart, "MMP_USERNAME", EXPIRED)
    machine.prepare(REPLY)
    ran = run([machine.servers["sshd that asks"]])
    assert ran.log[1].startswith("The server did not let this script in with the password alone.")
    assert machine.commands() == []


# ---- How an answer ends --------------------------------------------------------------------------

AT_ANY_LINE = {
    "status 0": ("exit 0", YES),
    "status 1": ("exit 1", NO),
    "FAILURE": ("echo FAILURE: no", NO),
    "drop": ("sleep 0.2; drop_connection", MAYBE),
}
ENDS = {
    f"{count} lines, {name}": ("".join([*LINES[:count], end]), told)
    for count in range(len(LINES) + 1)
    for name, (end, told) in AT_ANY_LINE.items()
}
ENDS["killed"] = "kill -9 $$", MAYBE
ENDS["3 lines, status 1"] = f"{REPLY}exit 1", MAYBE  # which contradict each other


@BOTH
@mark.parametrize("end", ENDS)
def test_end_of_an_answer(end: str, name: str, machine: RealServers, run: Run) -> None:
    shell, told = ENDS[end]
    assert run_on(name, machine, run, shell)[:2] == (told, COMMAND)


# ---- Counting ------------------------------------------------------------------------------------


@BOTH
def test_sessions_of_a_long_log(name: str, machine: RealServers, run: Run) -> None:
    """2.5 MiB follow the counters."""
    now = f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%dT%H:%M:%S}.000 user.info cms1"
    web = f"{now} webbridge: INFO : [DEBUGGING] Stats 149, c:3477, d:3170\n"
    call = f'{now} host:server: INFO : STATS: {{"callLegs": "20/24", "CMA": "14/17"}}\n'
    other = f"{now} host:server: INFO : recording device 1: available (1 recordings)\n"
    (machine.home / "log").write_text(web + call + other * ((5 << 19) // len(other)))
    machine.prepare("exit 1")
    ran = run([machine.servers[name]], "--sessions", "--quiet")
    assert ran.out.splitlines()[-1] == "Leaked: 135 sessions (149 Web Bridge, 14 active CMA)."
    assert (ran.status, ran.log, machine.commands()) == (0, [], [])
