"""What is checked before the first connection: options, block to edit, password, host keys, log.

Each mistake has its own sentence, once on stderr and once in the log, and the run ends with status
2. A Python without paramiko, and streams or logs that fail later, are in test_surroundings.py.
"""

from __future__ import annotations

import errno
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import paramiko
import pytest
from pytest import MonkeyPatch, mark

import demo
import webbridge_restart
from conftest import PASSWORD, RIGHTS, Run, error_of, restarted, unstamped
from mmp import MMP
from remote import ECDSA_KEY, KEY, Remote
from webbridge_restart import WEBBRIDGES, command_line, parse_address

IN_SCRIPT = "pw-script"
POSIX = mark.skipif(os.name != "posix", reason="Windows has no modes and no named pipes")
PATIENCE = 120.0  # seconds for a child, on a busy computer

Capture = pytest.CaptureFixture[str]
Start = Callable[..., tuple[int, str, str, list[str]]]  # exit status, stdout, stderr, log


def private_file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def control(char: str, source: str = "FILE") -> str:
    return f"The password from {source} has a control character, {char!a}. Write it again."


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A file in the script's place, which only its owner can read."""
    return private_file(tmp_path / "webbridge_restart.py", b"")


@pytest.fixture
def start(
    script: Path, log_file: Path, known_hosts: Path, monkeypatch: MonkeyPatch, capsys: Capture
) -> Start:
    """Run main() with these options, and with these values in the block to edit."""
    monkeypatch.delenv("MMP_PASSWORD", raising=False)
    usual = {"SCRIPT": script, "MMP_PASSWORD": IN_SCRIPT, "WEBBRIDGES": {1: "127.0.0.1"}}

    def start_once(*options: str, **block: object) -> tuple[int, str, str, list[str]]:
        for name, value in {**usual, **block}.items():
            monkeypatch.setattr(webbridge_restart, name, value)
        files = ["--known-hosts", str(known_hosts), "--log-file", str(log_file)]
        status = webbridge_restart.main([*files, *options])
        printed = capsys.readouterr()
        log = unstamped(log_file.read_text("utf-8")) if log_file.exists() else []
        return status, printed.out, printed.err, log

    return start_once


def assert_refused(start: Start, sentence: str, *options: str, **block: object) -> None:
    """Nothing is attempted, and why is said once; in the log unless it only looks."""
    for look in ("--check", "--sessions"):
        assert start(*options, look, **block) == (2, "", f"{sentence}\n", [])
    assert start(*options, **block) == (2, "", f"{sentence}\n", [sentence])


# ---- The block to edit ---------------------------------------------------------------------------

EXAMPLE = 'Put one line per server there, for example 1: "10.48.79.194",'
NO_NUMBER = 'has no number. Write it like this: 1: "10.48.79.194",'
NO_ADDRESS = (
    "is not an address. Write an IP address or a host name, and :PORT after it if the port is not "
    "22. Put an IPv6 address in brackets."
)
TWICE = {1: "cms1.example.com:2222", 2: "cms2", 3: " CMS1.Example.com.:02222\t"}
TWICE_TOLD = "CMS1.Example.com.:02222 twice, as 1 and as 3. Delete one of the two lines."
NOT_TEXT = (
    "MMP_USERNAME or MMP_PASSWORD in webbridge_restart.py is not text. Write each in quotation "
    "marks. Only the password may be empty."
)
NO_PASSWORD = (
    "No password. Use --password-file, --ask-password, or the environment variable MMP_PASSWORD "
    "(see README.md)."
)
PASSWORD_IN_SCRIPT = "MMP_PASSWORD in webbridge_restart.py"
NOT_BOOL = "LOG_TIMES_ARE_LOCAL in webbridge_restart.py must be True or False."
BLOCKS: list[tuple[str, object, str]] = [
    ("WEBBRIDGES", WEBBRIDGES, f"WEBBRIDGES still has its example addresses. {EXAMPLE}"),
    ("WEBBRIDGES", {}, f"WEBBRIDGES lists no servers. {EXAMPLE}"),
    ("CALLBRIDGES", ["10.0.0.1"], f"CALLBRIDGES lists no servers. {EXAMPLE}"),
    ("WEBBRIDGES", {7: "a", "1": "b"}, f"WEBBRIDGES entry '1', 'b', {NO_NUMBER}"),
    ("WEBBRIDGES", {7: "a", 1.5: "b"}, f"WEBBRIDGES entry 1.5, 'b', {NO_NUMBER}"),
    ("WEBBRIDGES", {7: "a", 1: 10}, f"WEBBRIDGES entry 1, 10, {NO_ADDRESS}"),
    ("WEBBRIDGES", {1: "a\n\x1b[2J"}, rf"WEBBRIDGES entry 1, 'a\n\x1b[2J', {NO_ADDRESS}"),
    ("WEBBRIDGES", TWICE, f"WEBBRIDGES lists {TWICE_TOLD}"),
    *(("MMP_USERNAME", value, NOT_TEXT) for value in (b"admin", "")),
    ("MMP_PASSWORD", None, NOT_TEXT),
    ("MMP_PASSWORD", "C:\new", control("\n", PASSWORD_IN_SCRIPT)),
    *(("LOG_TIMES_ARE_LOCAL", value, NOT_BOOL) for value in ("False", 0)),
    ("MMP_PASSWORD", "", NO_PASSWORD),  # a single server may be this computer, as for a tunnel
]


@mark.parametrize(("name", "value", "sentence"), BLOCKS)
def test_block(start: Start, name: str, value: object, sentence: str) -> None:
    assert_refused(start, sentence, **{name: value})


WRONG = [
    *("", ":22", "[]:22", "10.0.0.1, 10.0.0.2", "10.0.0.1/24", "admin@cms1.example.com"),
    *("cms1 :22", "cms1: 22", "10.0.0.999", "10.0.0", "10.0.0.1.1", "12345", "010.0.0.1"),
    *("2001:db8::3", "[2001:db8::3", "[2001:db8::z]", "[cms1]:22"),
    *(f"10.0.0.1:{port}" for port in ("0", "65536", "ssh", "", "-1", "2 2")),
    *("a" * 64, "cms1..com", ".cms1", "cms1-.com", "-oProxyCommand=x", "cms1.-example.com"),
    *("cms1..", ".", "cms\x001", "cms1\n.com", "cms1\n", "cms1\u200b", "cmsé.example.com"),
]
RIGHT = {
    "10.48.79.194": ("10.48.79.194", 22),
    "10.48.79.195:065535": ("10.48.79.195", 65535),
    "[2001:DB8:0:0::3]:2222": ("2001:db8::3", 2222),
    "[fe80::1%eth0]": ("fe80::1%eth0", 22),
    "CMS_3.Example.COM.:1": ("cms_3.example.com", 1),
    "4cms.xn--bcher-kva.example": ("4cms.xn--bcher-kva.example", 22),
    "a" * 63: ("a" * 63, 22),
}


def test_right_addresses() -> None:
    assert {address: parse_address(address) for address in RIGHT} == RIGHT


@mark.parametrize("address", WRONG)
def test_wrong_address(address: str) -> None:
    with pytest.raises(ValueError):
        parse_address(address)


SEVEN = "uses the number 7 twice. Give each server its own."
SECOND = "is set a second time, in line 2 of webbridge_restart.py. Delete one of the two."
MISSING = (
    'is missing from the block "{}" of webbridge_restart.py. Write it there, at the left edge, as '
    "a new copy of the script has it."
)
MISTAKES = {  # of which Python says nothing, or too late
    'CALLBRIDGES: dict[int, str] = {\n7: "a",  # rack {A}\n0x7\n: "c"}': f"CALLBRIDGES {SEVEN}",
    'WEBBRIDGES = {1: "a", True: "b"}': f"WEBBRIDGES {SEVEN.replace('7', '1')}",
    'MMP_PASSWORD = ""\nMMP_PASSWORD = "b"': f"MMP_PASSWORD {SECOND}",
    'CALLBRIDGES: dict[int, str] = {}\nCALLBRIDGES = {1: "a"}': f"CALLBRIDGES {SECOND}",
    "mmp_username = ''\nprint(MMP_USERNAME)": f"MMP_USERNAME {MISSING.format('Edit these')}",
    'MMP_USERNAME: "a"\nprint(MMP_USERNAME)': f"MMP_USERNAME {MISSING.format('Edit these')}",
    "def a(): return TICK": f"TICK {MISSING.format('Limits')}",
    "TICK = '5'": "TICK in webbridge_restart.py is text. Write it without quotation marks.",
    'MMP_PASSWORD = "a"\nWEBBRIDGES = {1: "a",\n# 1: "b"\n}\nCALLBRIDGES = {1: "a"}\nTICK = 5\n'
    '__version__ = "5"\nRESTART_COMMAND = "a"': NO_PASSWORD,  # so no mistake was found
}


@mark.parametrize("text", MISTAKES)
def test_mistake_in_the_text_of_the_script(start: Start, script: Path, text: str) -> None:
    script.write_text(text, "utf-8")
    assert_refused(start, MISTAKES[text], MMP_PASSWORD="")


NO_NAME = ('MMP_USERNAME = "admin"\n', "")
BACKSLASH = ('MMP_PASSWORD = r""', r'MMP_PASSWORD = r"a\d"')  # in other quotes, Python warns of it
PIPES = [f"{option}=HERE/pipe" for option in ("--password-file", "--known-hosts", "--log-file")]
STARTED = [
    (NO_NAME, "--verbose", f"MMP_USERNAME {MISSING.format('Edit these')}"),
    (BACKSLASH, "--known-hosts=HERE", "HERE is not a file."),
    *(pytest.param(BACKSLASH, each, "HERE/pipe is not a file.", marks=POSIX) for each in PIPES),
]


@mark.parametrize(("edit", "option", "sentence"), STARTED)
def test_real_script(tmp_path: Path, edit: tuple[str, str], option: str, sentence: str) -> None:
    """In a process of its own, which a pipe could hold, and where Python itself would complain."""
    script = demo.script_for(["cms1.example.com"], tmp_path)
    private_file(script, script.read_text("utf-8").replace(*edit).encode())
    if os.name == "posix":
        os.mkfifo(tmp_path / "pipe")
    option, told = (text.replace("HERE", str(tmp_path)) for text in (option, f"{sentence}\n"))
    command = [sys.executable, str(script), option]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert (ran.returncode, ran.stdout, ran.stderr) == (2, "", told)
    if "--log-file" not in option:
        assert unstamped((tmp_path / demo.LOG_NAME).read_text("utf-8")) == told.splitlines()


# ---- Which password ------------------------------------------------------------------------------

TYPED, IN_FILE, IN_ENVIRONMENT = " pw-typed", "pw-wörd in file ", "pw-environ\xa0ment"


@pytest.fixture
def terminal(monkeypatch: MonkeyPatch) -> Mock:
    """A terminal, at whose prompt a password is typed. It is the function that asks."""
    asks = Mock(return_value=TYPED)
    monkeypatch.setattr("sys.stdin", Mock(isatty=lambda: True))
    monkeypatch.setattr("getpass.getpass", asks)
    return asks


def test_order_of_the_passwords(
    start: Start, terminal: Mock, tmp_path: Path, known_hosts: Path, monkeypatch: MonkeyPatch
) -> None:
    """A refused login says where it came from, and if it has a space that nobody sees; no more."""
    odd = " Mind that it has a space at its beginning or end, or a no-break space."
    file = private_file(tmp_path / "file", f"\ufeff{IN_FILE}\r\nsecond line\r\n".encode())
    with MMP(password="another") as mmp:
        known_hosts.write_text(f"{mmp.known_hosts_line}\n")
        for options, environment, password, source in (
            ([], "", IN_SCRIPT, f"from {PASSWORD_IN_SCRIPT}"),
            ([], IN_ENVIRONMENT, IN_ENVIRONMENT, "from MMP_PASSWORD in the environment"),
            ([file], IN_ENVIRONMENT, IN_FILE, f"from {file}"),
            ([file, "--ask-password"], IN_ENVIRONMENT, TYPED, "typed at the prompt"),
        ):
            assert terminal.call_args_list == []
            monkeypatch.setenv("MMP_PASSWORD", environment)
            words = map(str, ["--password-file", *options] if options else [])
            status, out, err, log = start("--verbose", *words, WEBBRIDGES={1: mmp.address})
            read = password.replace("\xa0", " ")  # as asyncssh reads it, by RFC 4013
            assert (status, mmp.passwords.pop(), mmp.passwords) == (1, read, [])
            told = f" Check the password ({source}).{'' if password == IN_SCRIPT else odd} Other "
            assert told in log[-1] and told in err
            assert "pw-" not in out + err + "".join(log)
    terminal.assert_called_once_with("MMP password of admin: ")


EMPTY = "The first line of {file} is empty. Write the password there."
OTHERS = "Others can read the password in {0}. Run: chmod go-rwx {quoted}"
TAKE_OVER = "sudo chown {account} {quoted} && sudo chmod go-rwx {quoted}"
EVERYBODY = f"Others can read the password in {{0}}. Run: {TAKE_OVER}"
MODES = [(0o604, 0, OTHERS), (0o610, 0, OTHERS), (0o604, 1, EVERYBODY), (0o670, 1, EMPTY)]


@POSIX
@mark.parametrize(("mode", "stranger", "sentence"), MODES)
def test_who_can_read_the_password(
    start: Start, tmp_path: Path, monkeypatch: MonkeyPatch, mode: int, stranger: int, sentence: str
) -> None:
    """In the script also if another password is used: this one is in the open all the same."""
    folder = tmp_path / "o'brien"
    folder.mkdir()
    script, file = (private_file(folder / name, b"") for name in ("script.py", "pw"))
    account = file.stat().st_uid + stranger
    monkeypatch.setattr(os, "geteuid", lambda: account)
    for path in (file, script):
        path.chmod(mode)
        quoted = shlex.quote(str(path))
        told = sentence.format(path, file=file, quoted=quoted, account=account)
        assert start("--password-file", str(file), SCRIPT=script)[:3] == (2, "", f"{told}\n")
        path.chmod(0o600)


def test_nothing_typed(start: Start, terminal: Mock, monkeypatch: MonkeyPatch) -> None:
    """The password in the script does not help out: it was not asked for."""
    not_utf_8 = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid")
    for typed in ("", EOFError(), not_utf_8):
        terminal.side_effect = [typed]
        assert start("--ask-password")[:3] == (2, "", "No password was typed.\n")
    terminal.side_effect = KeyboardInterrupt
    assert start("--ask-password")[:3] == (130, "", "")
    for stdin in (None, Mock(isatty=lambda: False)):
        monkeypatch.setattr("sys.stdin", stdin)
        sentence = "--ask-password needs a terminal. Use --password-file in a scheduled job.\n"
        assert start("--ask-password")[:3] == (2, "", sentence)


def test_environment_that_is_not_utf_8(start: Start, monkeypatch: MonkeyPatch) -> None:
    """Python keeps its bytes as halves of letters."""
    monkeypatch.setattr(os, "environ", {**os.environ, "MMP_PASSWORD": "p\udce4ssword"})
    assert_refused(start, "The password from MMP_PASSWORD in the environment is not UTF-8.")


# ---- Known hosts ---------------------------------------------------------------------------------

HOST = "cms1.example.com"
NAME = f"[{HOST}]:2222"
ED25519, ECDSA = (f"{key.get_name()} {key.get_base64()}" for key in (KEY, ECDSA_KEY))
OF_ANOTHER = f"|1|{'A' * 27}=|{'A' * 27}="  # a hashed name
SKIPPED = f"{NAME} ssh-dss AAAAB3NzaC1kc3M=\n{NAME} sk-x@a AAAA\n"  # paramiko lacks these types
SHOWN = f"{KEY.get_name()} {KEY.fingerprint}"
NEW = f"New host key, not trusted yet: {SHOWN}. It is not in FILE. "
OTHER_TYPE = f"The server has no host key of a known type: {ECDSA_KEY.get_name()}. Shown: {SHOWN}. "
HOSTS = {  # what a known-hosts file holds, and what is told of the key, if it is not the known one
    f"10.0.0.1,{NAME.upper()},cms2 {ED25519} a comment": "",
    f"{OF_ANOTHER} {ED25519}\n{paramiko.HostKeys.hash_host(NAME)} {ED25519}\n": "",
    f"# MMPs\n\n  # more\n{NAME}\t{ED25519.replace(' ', '  ')}\n": "",
    f"\ufeff{NAME} {ED25519}\r\n\r\n": "",
    f"{SKIPPED}{NAME} {ECDSA}\n{NAME} {ED25519}\n": "",
    f"{SKIPPED}{NAME} {ECDSA}\n": OTHER_TYPE,
    f"# a\n{SKIPPED}": NEW,
    # other names, without the port, another port, and hashed
    f"cms2,example.com {ED25519}\n{HOST} {ED25519}\n[{HOST}]:1 {ED25519}\n"
    f"{OF_ANOTHER} {ED25519}\n": NEW,
}


def test_known_hosts_as_ssh_and_editors_write_them(remote: Remote, known_hosts: Path) -> None:
    for content, sentence in HOSTS.items():
        mmp = remote.at(f"{HOST}:2222")
        known_hosts.write_bytes(content.encode())
        told = sentence.replace("FILE", str(known_hosts)) or restarted(mmp)
        assert remote.run().log[-1].startswith(told), content
        assert ("password" in mmp.received) == (not sentence)


@mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can")
def test_root_leaves_a_password_file_to_its_owner(start: Start, tmp_path: Path) -> None:
    file = private_file(tmp_path / "pw", b"")
    os.chown(file, 1234, 0)
    file.chmod(0o604)
    told = OTHERS.format(file, quoted=shlex.quote(str(file)))
    assert start("--password-file", str(file))[:3] == (2, "", f"{told}\n")


@POSIX
def test_new_file_of_host_keys_is_private(remote: Remote, tmp_path: Path) -> None:
    mmp, file = remote.at(HOST), tmp_path / "new"
    before = os.umask(0)
    ran = remote.run("--accept-new-host-keys", "--known-hosts", str(file))
    os.umask(before)
    assert (ran.log[1:], file.stat().st_mode & 0o777) == ([restarted(mmp)], 0o600)


def test_command_for_the_command_prompt_of_windows(monkeypatch: MonkeyPatch) -> None:
    words = (r"C:\o'brien\a b.py", "--check", r"C:\a-1_é.txt", "paramiko<5", 2)
    with monkeypatch.context() as patch:
        patch.setattr(os, "name", "nt")
        command = command_line(*words)
    assert command == r""""C:\o'brien\a b.py" --check C:\a-1_é.txt "paramiko<5" 2"""


def test_commands_have_the_access_of_the_run(
    run: Run, remote: Remote, tmp_path: Path, log_file: Path, monkeypatch: MonkeyPatch
) -> None:
    """And they reach the server: --check does not contact one that is only in CALLBRIDGES."""
    file = private_file(tmp_path / "o'brien", PASSWORD.encode())
    monkeypatch.setattr(webbridge_restart, "KNOWN_HOSTS_FILE", remote.known_hosts)
    monkeypatch.setattr(webbridge_restart, "LOG_FILE", log_file)
    monkeypatch.setattr(webbridge_restart, "CALLBRIDGES", {1: "10.0.0.1"})
    for address in (HOST, "10.0.0.1"):
        remote.at(address, known=())
    options = ("--password-file", str(file), "--timeout", "60")
    ways = {f"1 ({HOST})  ": ["--check", "1"], "1 of CALLBRIDGES (10.0.0.1)  ": ["--sessions"]}
    rows = run([HOST], "--sessions", *options).err.splitlines()[1:3]
    for row, name in zip(rows, ways):
        words = (webbridge_restart.SCRIPT, *ways[name], "--accept-new-host-keys", *options)
        command = command_line(sys.executable, *words)
        assert row.startswith(name) and row.endswith(f" then store the key with: {command}")


# ---- Files that are of no use --------------------------------------------------------------------

UNUSABLE = (
    "FILE, line 3, has a marker (@), a pattern (*, ?, !) or a damaged key, which this script "
    "cannot use. Delete the line if you know that it forbids no key. Then --check names the "
    "servers whose keys you must store."
)
UNUSABLE_LINES = (
    f"@revoked a {ED25519}",  # to pass over it would trust the key, which another line has
    "@cert-authority b ssh-ed448 AAAA",
    *(f"{name} {ED25519}" for name in ("*.example.com", "cms?", "b,!a")),
    # damaged, for paramiko each in its own way
    "10.0.0.1 ssh-ed25519",
    "10.0.0.1 ssh-ed25519 AAAA!",
    "10.0.0.1 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA==",
    f"10.0.0.1 ssh-rsa {KEY.get_base64()}",
    f"10.0.0.1 {ED25519[:-4]}",
    f"10.0.0.1 {ED25519}AAAA",
    f"|1|bad|hash {ED25519}",
)
FILES = [
    ("--password-file", b"\xef\xbb\xbf\r\nsecret on line 2\r\n", EMPTY.format(file="FILE")),
    ("--password-file", b"p\xe4ssword\n", "FILE is not UTF-8. Save it again as UTF-8."),
    *(("--password-file", f"a\t{c}b".encode(), control(c)) for c in "\0\b\x1b\r\x7f\x9f"),
    ("--known-hosts", "10.0.0.1".encode("utf-16"), UNUSABLE.replace("3", "1", 1)),
    *(
        ("--known-hosts", f"a {ED25519}\r\n# a\r\n{line}\r\n".encode(), UNUSABLE)
        for line in UNUSABLE_LINES
    ),
]


@mark.parametrize(("option", "content", "sentence"), FILES)
def test_file_that_is_of_no_use(
    start: Start, tmp_path: Path, option: str, content: bytes, sentence: str
) -> None:
    """The password in the script does not help out."""
    file = private_file(tmp_path / "file", content)
    assert_refused(start, sentence.replace("FILE", str(file)), option, str(file))


def test_file_that_cannot_be_read(
    start: Start, tmp_path: Path, known_hosts: Path, monkeypatch: MonkeyPatch
) -> None:
    """The sentence has the full path, which cannot forge a line of the log."""
    monkeypatch.chdir(tmp_path)
    sentence = f"{tmp_path} is not a file."
    assert_refused(start, sentence, "--known-hosts", ".")
    assert start("--check", "--password-file", ".")[2] == f"{sentence}\n"
    missing = tmp_path / "a\nWebbridge on server: 10.0.0.9 restarted successfully"
    escaped = str(missing).replace("\n", "\\n")
    reason = f"Cannot read {escaped}: {error_of(missing.read_bytes)}."
    assert start("--password-file", str(missing))[3] == [sentence, reason]
    known_hosts.touch()
    denied = PermissionError(errno.EACCES, "Permission denied", "a")
    monkeypatch.setattr(Path, "read_bytes", Mock(side_effect=[b"script", denied]))
    assert start("--check")[2] == f"Cannot read a: Permission denied. {RIGHTS}.\n"


# ---- The log -------------------------------------------------------------------------------------


def test_log_that_cannot_be_written(
    start: Start, tmp_path: Path, log_file: Path, monkeypatch: MonkeyPatch
) -> None:
    """Also a check finds it out, before the night does. To count, no log is needed."""
    nowhere = tmp_path / "none" / "log"
    missing = f"Cannot write to {nowhere}: {os.strerror(errno.ENOENT)}."
    for path, sentence in ((tmp_path, f"{tmp_path} is not a file."), (nowhere, missing)):
        for option in ("--quiet", "--check"):
            assert start(option, "--log-file", str(path)) == (2, "", f"{sentence}\n", [])
    counting = start("--sessions", "--log-file", str(nowhere), MMP_PASSWORD="")
    assert counting == (2, "", f"{NO_PASSWORD}\n", [])
    denied = PermissionError(errno.EACCES, "Permission denied")
    monkeypatch.setattr(Path, "open", Mock(side_effect=denied))
    assert start()[2] == f"Cannot write to {log_file}: Permission denied. {RIGHTS}.\n"


def test_log_that_another_run_creates_meanwhile(log_file: Path, monkeypatch: MonkeyPatch) -> None:
    """The trial of the log does not remove it."""
    log_file.write_text("a line\n")
    monkeypatch.setattr(Path, "exists", lambda _: False)
    webbridge_restart.refuse_unwritable_log(log_file)
    assert log_file.read_text() == "a line\n"


def test_new_and_old_log(start: Start, script: Path, tmp_path: Path, log_file: Path) -> None:
    """A new log of root's, who checks, could not be written by the scheduled job."""
    start("--check", MMP_PASSWORD="")
    assert list(tmp_path.iterdir()) == [script]
    for end in ("", "\n", "\r\n"):
        log_file.write_bytes(f"2026-01-01 00:00:00.000000+00:00 old{end}".encode())
        assert start("--check", MMP_PASSWORD="")[3] == ["old"]
        assert start(MMP_PASSWORD="")[3] == ["old", NO_PASSWORD]


def test_log_that_cannot_be_read(start: Start, log_file: Path, monkeypatch: MonkeyPatch) -> None:
    """A file to which one may only append is a good log."""
    really_open = Path.open
    log_file.write_text("2026-01-01 00:00:00.000000+00:00 old\n")

    def open_to_append(path: Path, mode: str, *others: Any, **named: Any) -> Any:
        if path == log_file and mode not in ("ab", "r"):  # to read it is for this test
            raise PermissionError(errno.EACCES, "Permission denied")
        return really_open(path, mode, *others, **named)

    monkeypatch.setattr(Path, "open", open_to_append)
    assert start(MMP_PASSWORD="")[2:] == (f"{NO_PASSWORD}\n", ["old", NO_PASSWORD])


# ---- Options -------------------------------------------------------------------------------------


def ended(start: Start, capsys: Capture, *options: str) -> tuple[object, str, str]:
    """Return the exit status that argparse ends a run with, and what it prints."""
    with pytest.raises(SystemExit) as raised:
        start(*options, MMP_PASSWORD="")
    printed = capsys.readouterr()
    return raised.value.code, printed.out, printed.err


TOO_LONG = "must be from 0 to 86400 seconds"
NO_NUMBER_OF_THEM = "must be a whole number of sessions, 0 or more"
REFUSED = {
    "argument --sessions: not allowed with argument --check": ["--check --sessions"],
    "argument -v/--verbose: not allowed with argument -q/--quiet": ["--quiet -v"],
    "unrecognized arguments: --accept": ["--accept"],  # no option can be cut short
    f"argument --timeout: {TOO_LONG}": ["--timeout=86400.1", "--timeout=nan", "--timeout=60s"],
    f"argument --pause: {TOO_LONG}": ["--pause=-0.1"],
    f"argument --if-leaked: {NO_NUMBER_OF_THEM}": ["--if-leaked=1.5", "--if-leaked=-1"],
    f"argument --max-active: {NO_NUMBER_OF_THEM}": ["--max-active= --if-leaked=9"],
    "SERVER, --if-leaked and --max-active are not allowed with --sessions": [
        "--sessions 1",
        "--sessions --if-leaked 0",
    ],
    "--pause is not allowed with --max-active: after a pause, the number of active sessions would "
    "be too old to restart the next server": [
        "--pause=0.5 --max-active=0",
        "--check --if-leaked=1 --max-active=1 --pause=60",
    ],
}


@mark.parametrize("sentence", REFUSED)
def test_options_that_are_refused(start: Start, capsys: Capture, sentence: str) -> None:
    for options in REFUSED[sentence]:
        status, out, err = ended(start, capsys, *options.split())
        assert (status, out, err.partition(": error: ")[2]) == (2, "", f"{sentence}\n"), options


def test_values_at_the_limits(start: Start) -> None:
    lowest = "--timeout=0 --pause=0 --if-leaked=0 --max-active=0"
    for options in (lowest, "--timeout=86400 --pause=86400 --if-leaked=1000000"):
        assert start(*options.split(), "--check", MMP_PASSWORD="")[2] == f"{NO_PASSWORD}\n"


HELP = (  # what cannot be guessed
    "number or address of a server in WEBBRIDGES (default: all of them)",
    "before the next one goes down (default: 0)",
    "the stored host keys (default: webbridge_known_hosts beside the script)",
    "the log to append to (default: webbridge_restart_logs.txt beside the script)",
    "time for each server, in total (default: SECONDS_PER_SERVER in the script)",
)


def test_help(start: Start, capsys: Capture, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    status, printed, _ = ended(start, capsys, "--help")
    assert status == 0
    assert max(map(len, printed.splitlines())) <= 80
    assert "\n  130, 143, 129, 149   ended by " in printed
    assert [text for text in HELP if text not in " ".join(printed.split())] == []
    assert ended(start, capsys, "--version")[1].endswith(" 3.1.0\n")


def test_packages_are_the_same_for_pip_and_for_uv() -> None:
    needed = "paramiko>=4.0,<6"
    file = Path(webbridge_restart.__file__)
    lines = file.with_name("requirements.txt").read_text("utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == [needed]
    block = f'# /// script\n# requires-python = ">=3.9"\n# dependencies = ["{needed}"]\n# ///\n'
    assert file.read_text("utf-8").startswith(f"#!/usr/bin/env python3\n{block}")
