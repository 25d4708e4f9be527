"""What is checked before the first connection: options, block to edit, password, host keys, log.

Each mistake has its own sentence, once on stderr and once in the log, and the run ends with status
2. A Python without paramiko, and streams or logs that fail later, are in test_surroundings.py.
"""

from __future__ import annotations

import codecs
import errno
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import Mock

import paramiko
import pytest

import webbridge_restart
from conftest import RIGHTS, Run, error_of, unstamped
from mmp import MMP, key, public
from webbridge_restart import parse_address

MODES = pytest.mark.skipif(os.name != "posix", reason="Windows has no modes")
NOT_FOUND = os.strerror(errno.ENOENT)
ROOT = Path(webbridge_restart.__file__).parent
DELIVERED = webbridge_restart.WEBBRIDGES
IN_SCRIPT = "pw-script"

Result = tuple[int, str, str, "list[str]"]  # exit status, stdout, stderr, and lines of the log
Start = Callable[..., Result]
Edit = Callable[..., None]


def private_file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o600)
    return path


@pytest.fixture
def edit(monkeypatch: pytest.MonkeyPatch) -> Edit:
    """Change the block to edit."""

    def change(**names: object) -> None:
        for name, value in names.items():
            monkeypatch.setattr(webbridge_restart, name, value)

    return change


@pytest.fixture
def script(edit: Edit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A file in the script's place, with a password that only its owner can read."""
    stand_in = private_file(tmp_path / "webbridge_restart.py", b"")
    monkeypatch.delenv("MMP_PASSWORD", raising=False)
    edit(SCRIPT=stand_in, MMP_PASSWORD=IN_SCRIPT, WEBBRIDGES={1: "127.0.0.1:1"})
    return stand_in


@pytest.fixture
def start(
    script: Path, log_file: Path, known_hosts: Path, capsys: pytest.CaptureFixture[str]
) -> Start:
    """Run main() with the block as it is, whatever that is."""

    def start_once(*options: str) -> Result:
        files = ["--known-hosts", str(known_hosts), "--log-file", str(log_file)]
        status = webbridge_restart.main([*files, *options])
        printed = capsys.readouterr()
        log = unstamped(log_file.read_text("utf-8")) if log_file.exists() else []
        return status, printed.out, printed.err, log

    return start_once


def assert_refused(start: Start, sentence: str, *options: str) -> None:
    """Nothing is attempted, and why is said once; in the log unless it only looks."""
    for look in ("--check", "--sessions"):
        assert start(*options, look) == (2, "", f"{sentence}\n", [])
    assert start(*options) == (2, "", f"{sentence}\n", [sentence])


# ---- The block to edit ---------------------------------------------------------------------------

EXAMPLE = 'Put one line per server there, for example 1: "10.48.79.194",'
LISTS_NONE = f"{{}} lists no servers. {EXAMPLE}"
NO_NUMBER = '{} entry {!r}, {!r}, has no number. Write it like this: 1: "10.48.79.194",'
NO_ADDRESS = (
    "{} entry {!r}, {!r}, is not an address. Write an IP address or a host name, and :PORT after "
    "it if the port is not 22. Put an IPv6 address in brackets."
)
TWICE = "{} lists {} twice, as 1 and as 3. Delete one of the two lines."


NOT_TEXT = (
    "MMP_USERNAME or MMP_PASSWORD in webbridge_restart.py is not text. Write each in quotation "
    "marks. Only the password may be empty."
)
NO_PASSWORD = (
    "No password. Use --password-file, --ask-password, or the environment variable MMP_PASSWORD "
    "(see README.md)."
)
NO_ADDRESSES = [
    *(None, 10, b"10.0.0.1", ["10.0.0.1"], ("10.0.0.1", 22)),
    *("", " ", ":22", "[]:22", "10.0.0.1, 10.0.0.2", "10.0.0.1;"),
    *("https://cms1.example.com", "10.0.0.1/24", "admin@cms1.example.com", "cms1/"),
    *("cms 1", "10.0.0. 1", "cms1 :22", "cms1: 22", "cms1\n.com"),
    *("10.0.0.999", "10.0.0", "10.0.0.1.1", "12345", "010.0.0.1"),
    *("2001:db8::3", "[2001:db8::3", "[2001:db8::z]", "[cms1]:22"),
    *(f"10.0.0.1:{port}" for port in ("0", "65536", "ssh", "", "-1", "2 2")),
    *("a" * 64, "cms1..com", ".cms1", "cms1-.com", "-oProxyCommand=x", "cms1.-example.com"),
    *("cms\x001", "cms1\u200b", "\x1b[2Jcms1", "cmsé.example.com"),
]
SAME_SERVERS = [
    ("10.0.0.1", "10.0.0.1"),
    ("10.0.0.1", "10.0.0.1:022"),
    ("10.0.0.1:2222", " 10.0.0.1:2222"),
    ("cms1.example.com:22", "CMS1.Example.com\t"),
    ("[2001:db8::3]", "[2001:DB8:0:0::3]:22"),
]
BLOCKS: list[tuple[str, object, str]] = [
    ("WEBBRIDGES", DELIVERED, f"{{}} still has its example addresses. {EXAMPLE}"),
    *(("WEBBRIDGES", value, LISTS_NONE) for value in ({}, ["10.0.0.1"], "10.0.0.1", None, 0)),
    *(
        ("WEBBRIDGES", {7: "cms7", number: "cms1"}, NO_NUMBER.format("{}", number, "cms1"))
        for number in ("1", None, (1, 2), 1.5)
    ),
    *(
        ("WEBBRIDGES", {7: "cms7", 1: address}, NO_ADDRESS.format("{}", 1, address))
        for address in NO_ADDRESSES
    ),
    *(
        ("WEBBRIDGES", {1: first, 2: "cms2", 3: second}, TWICE.format("{}", second.strip()))
        for first, second in SAME_SERVERS
    ),
    ("CALLBRIDGES", ["10.0.0.1"], LISTS_NONE),
    ("CALLBRIDGES", {2: "10.0.0.999"}, NO_ADDRESS.format("{}", 2, "10.0.0.999")),
    ("CALLBRIDGES", {None: "10.0.0.1"}, NO_NUMBER.format("{}", None, "10.0.0.1")),
    ("CALLBRIDGES", {1: "10.0.0.1", 3: "10.0.0.1"}, TWICE.format("{}", "10.0.0.1")),
    *(("MMP_USERNAME", value, NOT_TEXT) for value in (None, 12345, b"admin", ["admin"], "")),
    *(("MMP_PASSWORD", value, NOT_TEXT) for value in (None, 12345, b"admin", ["admin"])),
    ("MMP_PASSWORD", "", NO_PASSWORD),
]


@pytest.mark.parametrize(("name", "value", "sentence"), BLOCKS)
def test_block(start: Start, edit: Edit, name: str, value: object, sentence: str) -> None:
    edit(**{name: value})
    assert_refused(start, sentence.replace("{}", name, 1))


def test_single_server_may_be_this_computer(start: Start, edit: Edit) -> None:
    """As behind a tunnel: only several of the same are the example."""
    edit(WEBBRIDGES={1: "127.0.0.1"}, MMP_PASSWORD="")
    assert_refused(start, NO_PASSWORD)


RIGHT = {
    "10.48.79.194": ("10.48.79.194", 22),
    "10.48.79.195:2222": ("10.48.79.195", 2222),
    "10.48.79.197:65535": ("10.48.79.197", 65535),
    "[2001:db8::3]:22": ("2001:db8::3", 22),
    "[2001:DB8:0:0::4]": ("2001:db8::4", 22),
    "[fe80::1%eth0]": ("fe80::1%eth0", 22),
    "cms1": ("cms1", 22),
    "CMS2.Example.COM": ("cms2.example.com", 22),
    "cms_3.example.com:2222": ("cms_3.example.com", 2222),
    "xn--bcher-kva.example": ("xn--bcher-kva.example", 22),
    "4cms.example.com": ("4cms.example.com", 22),
    f"{'a' * 63}.example.com": (f"{'a' * 63}.example.com", 22),
}


def test_right_addresses() -> None:
    assert {address: parse_address(address) for address in RIGHT} == RIGHT


@pytest.mark.parametrize(
    ("block", "name", "number"),
    [
        ('WEBBRIDGES = {\n    1: "a",\n    2: "b",\n    1: "c",\n}', "WEBBRIDGES", 1),
        ('WEBBRIDGES = {\n    7: "a",  # rack {A}\n    0x7: "b",\n}', "WEBBRIDGES", 7),
        ('WEBBRIDGES = {1: "a"}\nCALLBRIDGES = {3: "a", 3: "b"}', "CALLBRIDGES", 3),
        ('CALLBRIDGES: dict[int, str] = {3: "a", 3: "b"}', "CALLBRIDGES", 3),
        ('CALLBRIDGES = {\n3\n: "a",\n3: "a"}', "CALLBRIDGES", 3),
    ],
)
def test_block_with_one_number_twice(
    start: Start, script: Path, block: str, name: str, number: int
) -> None:
    """Python keeps the last of them, and says nothing of the others."""
    script.write_text(f"{block}\n", "utf-8")
    assert_refused(start, f"{name} uses the number {number} twice. Give each server its own.")


def test_number_in_a_comment_or_in_the_other_inventory_is_not_twice(
    start: Start, script: Path
) -> None:
    script.write_text('WEBBRIDGES = {\n1: "a",\n# 1: "b",\n}\nCALLBRIDGES = {1: "a"}\n', "utf-8")
    assert start("3")[2] == "No server 3. WEBBRIDGES has 1 (127.0.0.1:1).\n"


# ---- Which password ------------------------------------------------------------------------------

TYPED, IN_FILE, IN_ENVIRONMENT = "pw-typed", "pw-file", "pw-environment"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """A terminal, at whose prompt a password is typed. It is the function that asks."""
    asks = Mock(return_value=TYPED)
    monkeypatch.setattr("sys.stdin", Mock(isatty=lambda: True))
    monkeypatch.setattr("getpass.getpass", asks)
    return asks


@pytest.mark.parametrize(
    ("given", "password", "source"),
    [
        ((TYPED, IN_FILE, IN_ENVIRONMENT, IN_SCRIPT), TYPED, "typed at the prompt"),
        ((IN_FILE, IN_ENVIRONMENT, IN_SCRIPT), IN_FILE, "from FILE"),
        ((IN_ENVIRONMENT, IN_SCRIPT), IN_ENVIRONMENT, "from MMP_PASSWORD in the environment"),
        ((IN_SCRIPT,), IN_SCRIPT, "from MMP_PASSWORD in webbridge_restart.py"),
        ((TYPED,), TYPED, "typed at the prompt"),
        ((IN_FILE,), IN_FILE, "from FILE"),
    ],
)
def test_order_of_the_passwords(
    start: Start,
    edit: Edit,
    terminal: Mock,
    tmp_path: Path,
    known_hosts: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: Sequence[str],
    password: str,
    source: str,
) -> None:
    """A refused login says where the password came from, and nothing says what it was."""
    file = private_file(tmp_path / "password", f"{IN_FILE}\n".encode())
    options = ["--verbose", *(["--ask-password"] if TYPED in given else [])]
    if IN_FILE in given:
        options += ["--password-file", str(file)]
    monkeypatch.setenv("MMP_PASSWORD", IN_ENVIRONMENT if IN_ENVIRONMENT in given else "")
    with MMP(password="another") as mmp:
        edit(WEBBRIDGES={1: mmp.address}, MMP_PASSWORD=IN_SCRIPT if IN_SCRIPT in given else "")
        known_hosts.write_text(f"{mmp.known_hosts_line}\n")
        status, out, err, log = start(*options)
    assert (status, mmp.passwords) == (1, [password])
    asked = [(("MMP password of admin: ",),)] if TYPED in given else []
    assert terminal.call_args_list == asked
    told = f"Check it ({source.replace('FILE', str(file))}), then"
    assert told in log[1] and told in err
    assert "pw-" not in out + err + "".join(log)


# ---- A password file -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [b"pass w\xc3\xb6rd", b"pass w\xc3\xb6rd\nsecond\n", b"\xef\xbb\xbfpass w\xc3\xb6rd\r\n2\r\n"],
)
def test_password_is_the_first_line_of_the_file(run: Run, tmp_path: Path, content: bytes) -> None:
    """Also as Notepad writes it."""
    file = private_file(tmp_path / "pw", content)
    with MMP(password="pass wörd") as mmp:
        assert run([mmp], "--check", "--password-file", str(file)).status == 0
    assert mmp.passwords == ["pass wörd"]


EMPTY = "The first line of FILE is empty. Write the password there."
NOT_UTF_8 = "The password file FILE is not UTF-8. Save it again as UTF-8."
UTF_16 = "The password file FILE is UTF-16. Save it again as UTF-8."


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", EMPTY),
        (b"\nsecret on line 2\n", EMPTY),
        (codecs.BOM_UTF8 + b"\r\nsecret on line 2\r\n", EMPTY),
        ("p\xe4ssword\n".encode("latin-1"), NOT_UTF_8),
        ("password\n".encode("utf-16-le"), UTF_16),
        (codecs.BOM_UTF16_LE + "password\n".encode("utf-16-le"), UTF_16),
        (codecs.BOM_UTF16_BE + "漢字".encode("utf-16-be"), UTF_16),
    ],
)
def test_password_file_without_a_password(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, sentence: str
) -> None:
    """The sentence has the full path. The password in the script does not help out."""
    monkeypatch.chdir(tmp_path)
    file = private_file(tmp_path / "pw", content)
    assert_refused(start, sentence.replace("FILE", str(file)), "--password-file", "./pw")


def test_password_file_that_cannot_be_read(start: Start, tmp_path: Path) -> None:
    """Its name cannot forge a line of the log."""
    folder = ["--password-file", str(tmp_path)]
    sentence = f"Cannot read the password file {tmp_path}: {error_of(tmp_path.read_bytes)}."
    assert_refused(start, sentence, *folder)
    missing = tmp_path / "a\nWebbridge on server: 10.0.0.9 restarted successfully"
    escaped = str(missing).replace("\n", "\\n")
    reason = f"Cannot read the password file {escaped}: {error_of(missing.read_bytes)}."
    assert start("--password-file", str(missing))[3] == [sentence, reason]


@MODES
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o610])
def test_password_that_others_can_read(
    start: Start, script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    """In the script also if another password is used: this one is in the open all the same."""
    sentence = "Others can read the password in {0}. Run: chmod go-rwx '{0}'"
    file = private_file(tmp_path / "pw", b"password")
    file.chmod(mode)
    assert_refused(start, sentence.format(file), "--password-file", str(file))
    script.chmod(mode)
    monkeypatch.setenv("MMP_PASSWORD", IN_ENVIRONMENT)
    assert start("--check")[2] == f"{sentence.format(script)}\n"


# ---- The prompt, and the environment -------------------------------------------------------------


@pytest.mark.parametrize(
    "typed",
    [[""], EOFError(), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")],
    ids=["an empty line", "end of file", "not UTF-8"],
)
def test_nothing_typed_at_the_prompt(start: Start, terminal: Mock, typed: object) -> None:
    """The password in the script does not help out: it was not asked for."""
    terminal.side_effect = typed
    assert start("--ask-password")[2] == "No password was typed.\n"


@pytest.mark.parametrize("stdin", [None, Mock(isatty=lambda: False)], ids=["none", "no terminal"])
def test_prompt_without_a_terminal(
    start: Start, monkeypatch: pytest.MonkeyPatch, stdin: object
) -> None:
    monkeypatch.setattr("sys.stdin", stdin)
    sentence = "--ask-password needs a terminal. Use --password-file in a scheduled job."
    assert_refused(start, sentence, "--ask-password")


def test_ctrl_c_at_the_prompt(start: Start, terminal: Mock) -> None:
    terminal.side_effect = KeyboardInterrupt
    assert start("--ask-password") == (130, "", "", [])


def test_password_in_the_environment_that_is_not_utf_8(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python keeps its bytes as halves of letters."""
    monkeypatch.setattr(os, "environ", {**os.environ, "MMP_PASSWORD": "p\udce4ssword"})
    assert_refused(start, "The password from MMP_PASSWORD in the environment is not UTF-8.")


# ---- Known hosts ---------------------------------------------------------------------------------


def test_known_hosts_as_ssh_and_editors_write_them(run: Run, known_hosts: Path) -> None:
    with MMP() as mmp:
        name, kind, text = mmp.known_hosts_line.split()
        hashed = paramiko.HostKeys.hash_host(name)
        for content in (
            f"{name} {kind} {text}",
            f"{hashed} {kind} {text}\n",
            f"|1|{'A' * 27}=|{'A' * 27}= {kind} {text}\n{hashed} {kind} {text}\n",
            f"cms1.example.com,{name},10.0.0.1 {kind} {text} a comment\n",
            f"# MMPs\n\n  # one more\n{name}\t{kind}  {text}\n",
            f"\ufeff{name} {kind} {text}\r\n\r\n",
            f"{name} ssh-dss AAAAB3NzaC1kc3M=\n{name} {kind} {text}\n",
            f"@cert-authority {name} ssh-rsa AAAA\n{name} {kind} {text}\n",
            f"{name} {public(key('ssh-rsa'))}\n{name} {kind} {text}\n",
            f"{name} {public(key(kind))}\n{name} {kind} {text}\n",
        ):
            known_hosts.write_bytes(content.encode())
            ran = run([mmp], "--check")
            assert (ran.status, ran.err) == (0, ""), content


NEW = "New host key, not trusted yet: {}. It is not in {}{}. The password was not sent to it."
OTHER = "The server has no host key of a known type: ssh-rsa{}. Shown: {}."


@pytest.mark.parametrize(
    ("content", "skipped", "sentence"),
    [
        ("", "", NEW),
        ("# 127.0.0.1\n@cert-authority NAME ssh-rsa AAAA\n", "2", NEW),
        ("NAME ssh-dss AAAAB3NzaC1kc3M=\n\nNAME sk-x@a AAAA\n", "1, 3", NEW),
        ("@cert-authority * ssh-rsa AAAA\ncms1,*.0.0.1 KEY\n", "", NEW),
        ("127.0.0.1 KEY\n[127.0.0.1]:1 KEY\n", "", NEW),  # without its port, and another
        (f"|1|{'A' * 27}=|{'A' * 27}= KEY\n", "", NEW),
        ("NAME ssh-dss AAAAB3NzaC1kc3M=\nNAME RSA\n", "1", OTHER),
    ],
)
def test_known_hosts_without_the_key_of_a_server(
    run: Run, known_hosts: Path, content: str, skipped: str, sentence: str
) -> None:
    """It names the lines of the server that it has to skip."""
    reason = f" (line {skipped} has a marker or a type that cannot be used)" if skipped else ""
    with MMP() as mmp:
        for word, text in (
            ("NAME", f"[127.0.0.1]:{mmp.port}"),
            ("KEY", public(mmp.host_key)),
            ("RSA", public(key("ssh-rsa"))),
        ):
            content = content.replace(word, text)
        known_hosts.write_text(content)
        ran = run([mmp], "--check")
    shown = f"ssh-ed25519 {mmp.host_key.get_fingerprint()}"
    expected = NEW.format(shown, known_hosts, reason)
    if sentence == OTHER:
        expected = OTHER.format(reason, shown)
    assert expected in ran.err
    assert (ran.status, mmp.passwords) == (1, [])


def test_known_hosts_that_do_not_exist_yet(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "none"
    with MMP() as mmp:
        ran = run([mmp], "--check", "--known-hosts", str(file))
    shown = f"ssh-ed25519 {mmp.host_key.get_fingerprint()}"
    assert NEW.format(shown, file, ", which does not exist yet") in ran.err
    assert (ran.status, mmp.passwords) == (1, [])


@pytest.mark.parametrize(
    "line",
    [
        "10.0.0.1",
        "10.0.0.1 ssh-ed25519",
        "10.0.0.1 ssh-ed25519 AAAA!",
        "10.0.0.1 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA==",
        "10.0.0.1 ssh-rsa KEY",
        "@cert-authority",
        "|1|bad|hash ssh-ed25519 KEY",
        "|1| ssh-ed25519 KEY",
        "\udcff\udcfe",
    ],
)
def test_unusable_line_of_known_hosts_is_named(start: Start, known_hosts: Path, line: str) -> None:
    text = line.replace("KEY", public(key()).split()[1])
    content = f"10.0.0.2 {public(key())}\r\n# comment\r\n{text}\r\n"
    known_hosts.write_bytes(content.encode("utf-8", "surrogateescape"))
    sentence = (
        f"{known_hosts}, line 3, is not a usable host key. Delete the line, then store the "
        "server's key again with --check --accept-new-host-keys."
    )
    assert_refused(start, sentence)


def test_revoked_key_is_refused(start: Start, known_hosts: Path) -> None:
    """Another line may have it: to pass over this one would trust it."""
    known_hosts.write_text(f"@revoked 10.0.0.1 {public(key())}\n10.0.0.1 {public(key())}\n")
    what = "revokes a key, which this script cannot check. Delete all lines of that key."
    assert_refused(start, f"{known_hosts}, line 1, {what}")


def test_known_hosts_that_cannot_be_read(start: Start, known_hosts: Path, tmp_path: Path) -> None:
    known_hosts.write_bytes(codecs.BOM_UTF16_LE + "10.0.0.1".encode("utf-16-le"))
    utf_16 = f"The known-hosts file {known_hosts} is UTF-16. Save it again as UTF-8."
    assert start("--check")[2] == f"{utf_16}\n"
    folder = f"Cannot read the known-hosts file {tmp_path}: {error_of(tmp_path.read_bytes)}."
    assert_refused(start, folder, "--known-hosts", str(tmp_path))


# ---- The log -------------------------------------------------------------------------------------


def test_log_that_cannot_be_written(
    start: Start, edit: Edit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a check finds it out, before the night does. To count, no log is needed."""
    edit(MMP_PASSWORD="")  # which is said only of a log that is all right
    denied = PermissionError(errno.EACCES, "Permission denied")
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.TemporaryFile", Mock(side_effect=denied))
        expected = f"Cannot write to {tmp_path / 'new'}: Permission denied. {RIGHTS}.\n"
        assert start("--log-file", str(tmp_path / "new"))[2] == expected
    problems = {
        tmp_path: error_of(lambda: tmp_path.open("ab")),
        tmp_path / "none" / "log": NOT_FOUND,
    }
    for path, problem in problems.items():
        log = ["--log-file", str(path)]
        for option in ("--quiet", "--check", "--check --if-leaked=1"):
            sentence = f"Cannot write to {path}: {problem}.\n"
            assert start(*log, *option.split()) == (2, "", sentence, [])
        assert start(*log, "--sessions") == (2, "", f"{NO_PASSWORD}\n", [])


def test_check_leaves_no_new_log_and_an_old_one_as_it_is(
    run: Run, tmp_path: Path, log_file: Path
) -> None:
    """A new log of root's could not be written by the scheduled job."""
    folder = tmp_path / "logs"
    folder.mkdir()
    log_file.write_bytes(b"of last night")
    before = log_file.stat().st_mtime_ns
    with MMP() as mmp:
        assert run([mmp], "--check", "--log-file", str(folder / "log.txt")).status == 0
        assert run([mmp], "--check").status == 0
    assert run([], "--check").status == 2
    assert list(folder.iterdir()) == []
    assert log_file.read_bytes() == b"of last night"
    assert log_file.stat().st_mtime_ns == before


@pytest.mark.parametrize("end", ["", "\n", "\r\n"], ids=["none", "LF", "CRLF"])
def test_log_goes_on_in_a_line_of_its_own(
    start: Start, edit: Edit, log_file: Path, end: str
) -> None:
    edit(MMP_PASSWORD="")
    log_file.write_bytes(f"2026-01-01 00:00:00.000000+00:00 old{end}".encode())
    assert start()[3] == ["old", NO_PASSWORD]
    assert log_file.read_bytes().endswith(f"{NO_PASSWORD}{os.linesep}".encode())


# ---- Options -------------------------------------------------------------------------------------


def printed_by(capsys: pytest.CaptureFixture[str], *options: str, status: int = 0) -> str:
    """Return what argparse prints before it ends the run with this status."""
    with pytest.raises(SystemExit) as ended:
        webbridge_restart.main(options)
    assert ended.value.code == status
    printed = capsys.readouterr()
    assert "" in (printed.out, printed.err)
    return printed.out + printed.err


WITH_SESSIONS = "SERVER, --if-leaked and --max-active are not allowed with --sessions"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--check --sessions", "argument --sessions: not allowed with argument --check"),
        ("--sessions 1", WITH_SESSIONS),
        ("--sessions --if-leaked 0", WITH_SESSIONS),
        ("--sessions --max-active 0", WITH_SESSIONS),
        ("--quiet -v", "argument -v/--verbose: not allowed with argument -q/--quiet"),
        ("--parallel=2", "unrecognized arguments: --parallel=2"),
        ("--sessions --from-logs=a", "unrecognized arguments: --from-logs=a"),
        ("--accept", "unrecognized arguments: --accept"),  # no option can be cut short
        ("--if-leaked", "argument --if-leaked: expected one argument"),
    ],
)
def test_options_that_are_refused(
    capsys: pytest.CaptureFixture[str], log_file: Path, options: str, sentence: str
) -> None:
    printed = printed_by(capsys, "--log-file", str(log_file), *options.split(), status=2)
    assert printed.startswith("usage: ")
    assert printed.partition(": error: ")[2] == f"{sentence}\n"
    assert not log_file.exists()


TIMEOUT = "--timeout: must be more than 0 and at most 86400 seconds"
PAUSE = "--pause: must be from 0 to 86400 seconds"
IF_LEAKED, MAX_ACTIVE = (f"--{n}: must be 0 or more sessions" for n in ("if-leaked", "max-active"))


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        *((TIMEOUT, value) for value in ("0", "-1", "86400.1", "1e9", "nan", "inf", "-inf")),
        *((TIMEOUT, value) for value in ("x", "", "60s", "1,5", "0x10")),
        *((PAUSE, value) for value in ("-1", "-0.1", "86400.1", "nan", "inf", "1m", "")),
        *((IF_LEAKED, value) for value in ("-5", "1.5", "x", "", "20,")),
        *((MAX_ACTIVE, value) for value in ("-1", "1.5", "x", "", "nan")),
    ],
)
def test_value_outside_the_limits(
    capsys: pytest.CaptureFixture[str], rule: str, value: str
) -> None:
    option = f"{rule.partition(':')[0]}={value}"
    expected = f": error: argument {rule}, not {value!r}\n"
    assert printed_by(capsys, option, status=2).endswith(expected)


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--timeout", ("0.001", "60", "86400")),
        ("--pause", ("0", "0.5", "86400")),
        ("--if-leaked", ("0", "1000000")),
        ("--max-active", ("0", "1000000")),
    ],
)
def test_value_at_the_limits(
    capsys: pytest.CaptureFixture[str], option: str, values: Sequence[str]
) -> None:
    for value in values:
        assert printed_by(capsys, option, value, "--version").endswith(" 3.0.0\n")


# ---- Help ----------------------------------------------------------------------------------------


@pytest.fixture
def help_text(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "80")
    return printed_by(capsys, "--help")


def test_help(help_text: str) -> None:
    assert max(map(len, help_text.splitlines())) <= 80
    assert re.findall(r"(?m)^  (?:-\w, )?(--[\w-]+)", help_text) == [
        *("--help", "--check", "--sessions", "--if-leaked", "--max-active", "--pause"),
        *("--password-file", "--ask-password", "--known-hosts", "--accept-new-host-keys"),
        *("--timeout", "--log-file", "--quiet", "--verbose", "--version"),
    ]
    statuses = help_text.partition("Exit status:\n")[2]
    numbers = re.findall(r"(?m)^  (\d+(?:, \d+)*) {2,}\S", statuses)
    assert numbers == ["0", "1", "2", "130, 143, 129"]


VARIABLE, LAST = "environment variable MMP_PASSWORD", "MMP_PASSWORD in the script"


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("SERVER", "(default: all of them)"),
        ("--check", "also count, and say what a run would do now"),
        ("--pause", "(default: 0)"),
        ("--known-hosts", "(default: webbridge_known_hosts beside the script)"),
        ("--log-file", "(default: webbridge_restart_logs.txt beside the script)"),
        ("--timeout", "time for each server, in total (default: 60)"),
        ("--accept-new-host-keys", "without --check, the run then goes on and restarts"),
        ("--ask-password", f"After it come --password-file, the {VARIABLE}, and {LAST}"),
    ],
)
def test_help_says_what_cannot_be_guessed(help_text: str, option: str, words: str) -> None:
    options = help_text.partition("\nwhat to do:\n")[2]
    found = re.search(rf"(?m)^  (?:-\w, )?{option}\b(?:.*\n)(?: {{20}}.*\n)*", options)
    assert found
    assert " ".join(found[0].split()).endswith(words)


def test_packages_are_the_same_for_pip_and_for_uv() -> None:
    needed = "paramiko>=4.0,<6"
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == [needed]
    script = Path(webbridge_restart.__file__).read_text("utf-8")
    block = f'# /// script\n# requires-python = ">=3.9"\n# dependencies = ["{needed}"]\n# ///\n'
    assert script.startswith(f"#!/usr/bin/env python3\n{block}")
