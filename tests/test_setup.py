"""What is checked before the first connection: options, block to edit, password, host keys, log.

Each mistake has its own sentence, once on stderr and once in the log, and the run ends with status
2. A Python without paramiko, and streams or logs that fail later, are in test_surroundings.py.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import paramiko
import pytest
from pytest import MonkeyPatch, mark

import webbridge_restart
from conftest import RIGHTS, error_of, restarted, unstamped
from mmp import MMP
from remote import ECDSA_KEY, KEY, OTHER_KEY, Remote
from webbridge_restart import parse_address

DELIVERED = webbridge_restart.WEBBRIDGES
IN_SCRIPT = "pw-script"

Capture = pytest.CaptureFixture[str]
Start = Callable[..., tuple[int, str, str, list[str]]]  # exit status, stdout, stderr, log


def private_file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o600)
    return path


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
TWICE = {1: "cms1.example.com:2222", 2: "cms2", 3: " CMS1.Example.com:02222\t"}
TWICE_TOLD = "CMS1.Example.com:02222 twice, as 1 and as 3. Delete one of the two lines."
NOT_TEXT = (
    "MMP_USERNAME or MMP_PASSWORD in webbridge_restart.py is not text. Write each in quotation "
    "marks. Only the password may be empty."
)
NO_PASSWORD = (
    "No password. Use --password-file, --ask-password, or the environment variable MMP_PASSWORD "
    "(see README.md)."
)
BLOCKS: list[tuple[str, object, str]] = [
    ("WEBBRIDGES", DELIVERED, f"WEBBRIDGES still has its example addresses. {EXAMPLE}"),
    ("WEBBRIDGES", {}, f"WEBBRIDGES lists no servers. {EXAMPLE}"),
    ("CALLBRIDGES", ["10.0.0.1"], f"CALLBRIDGES lists no servers. {EXAMPLE}"),
    ("WEBBRIDGES", {7: "a", "1": "b"}, f"WEBBRIDGES entry '1', 'b', {NO_NUMBER}"),
    ("WEBBRIDGES", {7: "a", 1.5: "b"}, f"WEBBRIDGES entry 1.5, 'b', {NO_NUMBER}"),
    ("WEBBRIDGES", {7: "a", 1: 10}, f"WEBBRIDGES entry 1, 10, {NO_ADDRESS}"),
    ("WEBBRIDGES", {1: "a\n\x1b[2J"}, rf"WEBBRIDGES entry 1, 'a\n\x1b[2J', {NO_ADDRESS}"),
    ("WEBBRIDGES", TWICE, f"WEBBRIDGES lists {TWICE_TOLD}"),
    *(("MMP_USERNAME", value, NOT_TEXT) for value in (b"admin", "")),
    ("MMP_PASSWORD", None, NOT_TEXT),
    ("MMP_PASSWORD", "", NO_PASSWORD),  # a single server may be this computer, as for a tunnel
]


@mark.parametrize(("name", "value", "sentence"), BLOCKS)
def test_block(start: Start, name: str, value: object, sentence: str) -> None:
    assert_refused(start, sentence, **{name: value})


WRONG = [
    *("", ":22", "[]:22", "10.0.0.1, 10.0.0.2", "10.0.0.1/24", "admin@cms1.example.com"),
    *("cms 1", "cms1 :22", "cms1: 22", "10.0.0.999", "10.0.0", "10.0.0.1.1", "12345", "010.0.0.1"),
    *("2001:db8::3", "[2001:db8::3", "[2001:db8::z]", "[cms1]:22"),
    *(f"10.0.0.1:{port}" for port in ("0", "65536", "ssh", "", "-1", "2 2")),
    *("a" * 64, "cms1..com", ".cms1", "cms1-.com", "-oProxyCommand=x", "cms1.-example.com"),
    *("cms\x001", "cms1\n.com", "cms1\n", "cms1\u200b", "cmsé.example.com"),
]
RIGHT = {
    "10.48.79.194": ("10.48.79.194", 22),
    "10.48.79.195:065535": ("10.48.79.195", 65535),
    "[2001:DB8:0:0::3]:2222": ("2001:db8::3", 2222),
    "[fe80::1%eth0]": ("fe80::1%eth0", 22),
    "CMS_3.Example.COM:1": ("cms_3.example.com", 1),
    "4cms.xn--bcher-kva.example": ("4cms.xn--bcher-kva.example", 22),
    "a" * 63: ("a" * 63, 22),
}


def test_right_addresses() -> None:
    assert {address: parse_address(address) for address in RIGHT} == RIGHT


@mark.parametrize("address", WRONG)
def test_wrong_address(address: str) -> None:
    with pytest.raises(ValueError):
        parse_address(address)


def test_number_that_stands_twice(start: Start, script: Path) -> None:
    """Python keeps the last of them, and says nothing of the others."""
    for block, name in (
        ('WEBBRIDGES = {\n    7: "a",  # rack {A}\n    0x7: "c",\n}', "WEBBRIDGES"),
        ('WEBBRIDGES = {}\nCALLBRIDGES: dict[int, str] = {\n7\n: "a", 7: "a"}', "CALLBRIDGES"),
    ):
        script.write_text(block, "utf-8")
        sentence = f"{name} uses the number 7 twice. Give each server its own.\n"
        assert start("--check")[2] == sentence
    script.write_text('WEBBRIDGES = {\n1: "a",\n# 1: "b"\n}\nCALLBRIDGES = {1: "a"}', "utf-8")
    assert start("--check", MMP_PASSWORD="")[2] == f"{NO_PASSWORD}\n"


# ---- Which password ------------------------------------------------------------------------------

TYPED, IN_FILE, IN_ENVIRONMENT = "pw-typed", "pw-wörd in file ", "pw-environment"


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
    """A refused login says where the password came from, and nothing says what it was."""
    file = private_file(tmp_path / "file", f"\ufeff{IN_FILE}\r\nsecond line\r\n".encode())
    with MMP(password="another") as mmp:
        known_hosts.write_text(f"{mmp.known_hosts_line}\n")
        for options, environment, password, source in (
            ([], "", IN_SCRIPT, "from MMP_PASSWORD in webbridge_restart.py"),
            ([], IN_ENVIRONMENT, IN_ENVIRONMENT, "from MMP_PASSWORD in the environment"),
            ([file], IN_ENVIRONMENT, IN_FILE, f"from {file}"),
            ([file, "--ask-password"], IN_ENVIRONMENT, TYPED, "typed at the prompt"),
        ):
            assert terminal.call_args_list == []
            monkeypatch.setenv("MMP_PASSWORD", environment)
            words = map(str, ["--password-file", *options] if options else [])
            status, out, err, log = start("--verbose", *words, WEBBRIDGES={1: mmp.address})
            assert (status, mmp.passwords.pop(), mmp.passwords) == (1, password, [])
            told = f"Check it ({source}), then"
            assert told in log[-1] and told in err
            assert "pw-" not in out + err + "".join(log)
    terminal.assert_called_once_with("MMP password of admin: ")


@mark.skipif(os.name != "posix", reason="Windows has no modes")
@mark.parametrize("mode", [0o604, 0o610])
def test_password_that_others_can_read(
    start: Start, script: Path, tmp_path: Path, monkeypatch: MonkeyPatch, mode: int
) -> None:
    """In the script also if another password is used: this one is in the open all the same."""
    sentence = "Others can read the password in {0}. Run: chmod go-rwx '{0}'"
    file = private_file(tmp_path / "pw", b"password")
    file.chmod(mode)
    assert_refused(start, sentence.format(file), "--password-file", str(file))
    script.chmod(mode)
    monkeypatch.setenv("MMP_PASSWORD", IN_ENVIRONMENT)
    assert start("--check")[2] == f"{sentence.format(script)}\n"


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
ED25519, ECDSA, CHANGED = (f"{k.get_name()} {k.get_base64()}" for k in (KEY, ECDSA_KEY, OTHER_KEY))
OF_ANOTHER = f"|1|{'A' * 27}=|{'A' * 27}="  # a hashed name
SKIPPED = f"@cert-authority a,{NAME} ssh-rsa AAAA\n\n{NAME} ssh-dss AAAAB3NzaC1kc3M=\n"
SHOWN = f"{KEY.get_name()} {KEY.fingerprint}"
NEW = f"New host key, not trusted yet: {SHOWN}. It is not in FILE"
WITH_KEY = (
    f"10.0.0.1,{NAME.upper()},cms2 {ED25519} a comment",
    f"{OF_ANOTHER} {ED25519}\n{paramiko.HostKeys.hash_host(NAME)} {ED25519}\n",
    f"# MMPs\n\n  # more\n{NAME}\t{ED25519.replace(' ', '  ')}\n",
    f"\ufeff{NAME} {ED25519}\r\n\r\n",
    f"{SKIPPED}{NAME} {ECDSA}\n{NAME} {CHANGED}\n{NAME} {ED25519}\n",
)
WITHOUT_KEY = {
    f"# a\n{SKIPPED}{NAME} sk-x@a AAAA\n": f"{NEW} (line 2, 4, 5 has a marker or a type that "
    "cannot be used).",
    f"{SKIPPED}{NAME} {ECDSA}\n": "The server has no host key of a known type: ecdsa-sha2-nistp256 "
    f"(line 1, 3 has a marker or a type that cannot be used). Shown: {SHOWN}.",
    # other names, without the port, another port, and hashed
    f"@cert-authority * ssh-rsa AAAA\ncms2,*.example.com {ED25519}\n{HOST} {ED25519}\n"
    f"[{HOST}]:1 {ED25519}\n{OF_ANOTHER} {ED25519}\n": f"{NEW}.",
}


def test_known_hosts_as_ssh_and_editors_write_them(remote: Remote, known_hosts: Path) -> None:
    for content in WITH_KEY:
        mmp = remote.at(f"{HOST}:2222")
        known_hosts.write_bytes(content.encode())
        assert remote.run().log == [restarted(mmp)], content


def test_known_hosts_without_the_key_of_a_server(remote: Remote, known_hosts: Path) -> None:
    for content, sentence in WITHOUT_KEY.items():
        mmp = remote.at(f"{HOST}:2222")
        known_hosts.write_bytes(content.encode())
        assert remote.run().log[1].startswith(sentence.replace("FILE", str(known_hosts)))
        assert "password" not in mmp.received


# ---- Files that are of no use --------------------------------------------------------------------

EMPTY = "The first line of FILE is empty. Write the password there."
UTF_16 = "FILE is UTF-16. Save it again as UTF-8."
REVOKES = (
    "FILE, line 1, revokes a key, which this script cannot check. Delete all lines of that key."
)
UNUSABLE = (
    "FILE, line 3, is not a usable host key. Delete the line, then store the server's key again "
    "with --check --accept-new-host-keys."
)
UNUSABLE_LINES = (  # for paramiko, each in its own way
    "10.0.0.1 ssh-ed25519",
    "10.0.0.1 ssh-ed25519 AAAA!",
    "10.0.0.1 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA==",
    f"10.0.0.1 ssh-rsa {KEY.get_base64()}",
    "@cert-authority",
    "@other 10.0.0.1 AAAA",
    f"|1|bad|hash {ED25519}",
)
FILES = [
    ("--password-file", b"", EMPTY),
    ("--password-file", b"\xef\xbb\xbf\r\nsecret on line 2\r\n", EMPTY),
    ("--password-file", b"p\xe4ssword\n", "FILE is not UTF-8. Save it again as UTF-8."),
    ("--password-file", "password\n".encode("utf-16-le"), UTF_16),
    ("--password-file", "\ufeff漢字".encode("utf-16-le"), UTF_16),
    ("--password-file", "\ufeff漢字".encode("utf-16-be"), UTF_16),
    ("--known-hosts", "10.0.0.1".encode("utf-16-le"), UTF_16),
    # another line may have the key: to pass over the first one would trust it
    ("--known-hosts", f"@revoked a {ED25519}\na {ED25519}\n".encode(), REVOKES),
    ("--known-hosts", b"# a\n\n\xff\xfe\n", UNUSABLE),
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


def test_file_that_cannot_be_read(start: Start, tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """The sentence has the full path, which cannot forge a line of the log."""
    monkeypatch.chdir(tmp_path)
    sentence = f"Cannot read {tmp_path}: {error_of(tmp_path.read_bytes)}."
    assert_refused(start, sentence, "--known-hosts", ".")
    missing = tmp_path / "a\nWebbridge on server: 10.0.0.9 restarted successfully"
    escaped = str(missing).replace("\n", "\\n")
    reason = f"Cannot read {escaped}: {error_of(missing.read_bytes)}."
    assert start("--password-file", str(missing))[3] == [sentence, reason]
    # In a closed folder, nobody can see whether the known hosts are there.
    denied = PermissionError(errno.EACCES, "Permission denied", "a")
    monkeypatch.setattr(Path, "read_bytes", Mock(side_effect=[b"script", denied]))
    assert start("--check")[2] == f"Cannot read a: Permission denied. {RIGHTS}.\n"


# ---- The log -------------------------------------------------------------------------------------


def test_log_that_cannot_be_written(
    start: Start, tmp_path: Path, log_file: Path, monkeypatch: MonkeyPatch
) -> None:
    """Also a check finds it out, before the night does. To count, no log is needed."""
    problems = {
        tmp_path: error_of(lambda: tmp_path.open("ab")),
        tmp_path / "none" / "log": os.strerror(errno.ENOENT),
    }
    for path, problem in problems.items():
        for option in ("--quiet", "--check"):
            sentence = f"Cannot write to {path}: {problem}.\n"
            assert start(option, "--log-file", str(path)) == (2, "", sentence, [])
    counting = start("--sessions", "--log-file", str(path), MMP_PASSWORD="")
    assert counting == (2, "", f"{NO_PASSWORD}\n", [])
    denied = PermissionError(errno.EACCES, "Permission denied")
    monkeypatch.setattr("tempfile.TemporaryFile", Mock(side_effect=denied))
    assert start()[2] == f"Cannot write to {log_file}: Permission denied. {RIGHTS}.\n"


def test_new_and_old_log(start: Start, script: Path, tmp_path: Path, log_file: Path) -> None:
    """A new log of root's, who checks, could not be written by the scheduled job."""
    start("--check", MMP_PASSWORD="")
    assert list(tmp_path.iterdir()) == [script]
    for end in ("", "\n", "\r\n"):
        log_file.write_bytes(f"2026-01-01 00:00:00.000000+00:00 old{end}".encode())
        assert start("--check", MMP_PASSWORD="")[3] == ["old"]
        assert start(MMP_PASSWORD="")[3] == ["old", NO_PASSWORD]


# ---- Options -------------------------------------------------------------------------------------


def ended(start: Start, capsys: Capture, *options: str) -> tuple[object, str, str]:
    """Return the exit status that argparse ends a run with, and what it prints."""
    with pytest.raises(SystemExit) as raised:
        start(*options, MMP_PASSWORD="")
    printed = capsys.readouterr()
    return raised.value.code, printed.out, printed.err


WITH_SESSIONS = "SERVER, --if-leaked and --max-active are not allowed with --sessions"
TIMEOUT = "--timeout must be more than 0 and at most 86400 seconds"
PAUSE = "--pause must be from 0 to 86400 seconds"
CONDITIONS = "--if-leaked and --max-active must be 0 or more sessions"
REFUSED = {
    "--check --sessions": "argument --sessions: not allowed with argument --check",
    "--quiet -v": "argument -v/--verbose: not allowed with argument -q/--quiet",
    "--accept": "unrecognized arguments: --accept",  # no option can be cut short
    "--parallel=2": "unrecognized arguments: --parallel=2",  # options of version 2
    "--sessions --from-logs=a": "unrecognized arguments: --from-logs=a",
    "--if-leaked=1.5": "argument --if-leaked: invalid int value: '1.5'",
    "--timeout=60s": "argument --timeout: invalid float value: '60s'",
    **dict.fromkeys(["--timeout=0", "--timeout=86400.1", "--timeout=nan"], TIMEOUT),
    **dict.fromkeys(["--pause=-0.1", "--pause=86400.1", "--pause=nan"], PAUSE),
    **dict.fromkeys(["--if-leaked=-1", "--max-active=-1 --if-leaked=9"], CONDITIONS),
    "--sessions 1": WITH_SESSIONS,
    "--sessions --if-leaked 0": WITH_SESSIONS,
}


@mark.parametrize("options", REFUSED)
def test_options_that_are_refused(start: Start, capsys: Capture, options: str) -> None:
    status, out, err = ended(start, capsys, *options.split())
    assert (status, out, err.partition(": error: ")[2]) == (2, "", f"{REFUSED[options]}\n")


def test_values_at_the_limits(start: Start) -> None:
    for options in (
        "--timeout=0.001 --pause=0 --if-leaked=0 --max-active=0",
        "--timeout=86400 --pause=86400 --if-leaked=1000000 --max-active=1000000",
    ):
        assert start(*options.split(), "--check", MMP_PASSWORD="")[2] == f"{NO_PASSWORD}\n"


HELP = (  # what cannot be guessed
    "number or address of a server in WEBBRIDGES (default: all of them)",
    "before the next one goes down (default: 0)",
    "the stored host keys (default: webbridge_known_hosts beside the script)",
    "the log to append to (default: webbridge_restart_logs.txt beside the script)",
    "time for each server, in total (default: 60)",
)


def test_help(start: Start, capsys: Capture, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    status, printed, _ = ended(start, capsys, "--help")
    assert status == 0
    assert max(map(len, printed.splitlines())) <= 80
    assert "\n  130, 143, 129, 149   ended by " in printed
    words = " ".join(printed.split())
    assert [text for text in HELP if text not in words] == []
    assert ended(start, capsys, "--version")[1].endswith(" 3.0.0\n")


def test_packages_are_the_same_for_pip_and_for_uv() -> None:
    needed = "paramiko>=4.0,<6"
    file = Path(webbridge_restart.__file__)
    lines = file.with_name("requirements.txt").read_text("utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == [needed]
    block = f'# /// script\n# requires-python = ">=3.9"\n# dependencies = ["{needed}"]\n# ///\n'
    assert file.read_text("utf-8").startswith(f"#!/usr/bin/env python3\n{block}")
