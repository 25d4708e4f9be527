"""What is read before the first connection: the block to edit, the password, host keys, the log.

Each mistake has its own sentence, once on stderr and once in the log. The run then ends with status
2, before a server is reached. Which options go together is in test_options.py. Files as Windows
writes them (UTF-16 is one) are in test_windows.py, host keys that are stored in test_job.py. A
Python without paramiko, and streams or logs that fail, are in test_surroundings.py.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import paramiko
import pytest

import webbridge_restart
from conftest import Ran, Run, error_of, failed, restarted, unstamped
from simulated_mmp import PASSWORD, SimulatedMMP, ed25519_key

MODES = pytest.mark.skipif(os.name != "posix", reason="Windows has no modes")
NOT_FOUND = os.strerror(errno.ENOENT)


def private_file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def refused(run: Run, servers: list[SimulatedMMP], *options: str) -> str:
    """Run what must be refused; return the one sentence that stderr and the log share."""
    ran = run(servers, *options)
    assert (ran.status, ran.out, ran.err) == (2, "", f"{ran.log[0]}\n")
    assert [server.connections for server in servers] == [0] * len(servers)
    return ran.log[0]


# ---- The block to edit ---------------------------------------------------------------------------


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A file in the script's place, with a password that only its owner can read."""
    stand_in = private_file(tmp_path / "webbridge_restart.py", b"")
    monkeypatch.delenv("MMP_PASSWORD", raising=False)
    monkeypatch.setattr(webbridge_restart, "SCRIPT", stand_in)
    monkeypatch.setattr(webbridge_restart, "MMP_PASSWORD", PASSWORD)
    monkeypatch.setattr(webbridge_restart, "WEBBRIDGES", {1: "10.0.0.1"})
    return stand_in


@pytest.fixture
def start(
    script: Path, log_file: Path, known_hosts: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ran]:
    """Run main() with the block as it is, whatever that is."""

    def start_once(*options: str) -> Ran:
        files = ["--known-hosts", str(known_hosts), "--log-file", str(log_file)]
        status = webbridge_restart.main([*files, *options])
        printed = capsys.readouterr()
        log = unstamped(log_file.read_text("utf-8")) if log_file.exists() else []
        log_file.unlink(missing_ok=True)
        return Ran(status, printed.out, printed.err, log, 0)

    return start_once


def assert_refused(start: Callable[..., Ran], sentence: str) -> None:
    """Assert that nothing is attempted, and why is said once; in the log unless it only looks."""
    assert start() == (2, "", f"{sentence}\n", [sentence], 0)
    for option in ("--check", "--sessions"):
        assert start(option) == (2, "", f"{sentence}\n", [], 0)


EXAMPLE = 'Put one line per server there, for example 1: "10.48.79.194",'
LISTS_NONE = "{} lists no servers. " + EXAMPLE
NO_NUMBER = '{} entry {!r}, {!r}, has no number. Write it like this: 1: "10.48.79.194",'
NO_ADDRESS = (
    "{} entry {!r}, {!r}, is not an address. Write an IP address or a host name, and :PORT after "
    "it if the port is not 22. Put an IPv6 address in brackets."
)
TWICE = "{} lists {} twice, as 1 and as 3. Delete one of the two lines."
NUMBER_TWICE = "{} uses the number {} twice. Give each server its own."
NOT_TEXT = '{} in webbridge_restart.py is not text. Write it in quotation marks: "".'
NO_USER = "MMP_USERNAME in webbridge_restart.py is empty. Write the MMP's user name there."
NO_PASSWORD = (
    "No password. Use --password-file, --ask-password, or the environment variable "
    "MMP_PASSWORD (README, step 3)."
)
DELIVERED = webbridge_restart.WEBBRIDGES
LIST = ["10.0.0.1", "10.0.0.2"]


def test_block_as_it_is_delivered(
    start: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webbridge_restart, "WEBBRIDGES", DELIVERED)
    assert_refused(start, f"WEBBRIDGES still has its example addresses. {EXAMPLE}")


@pytest.mark.parametrize("inventory", [{}, [], LIST, (*LIST,), "10.0.0.1", None, 0], ids=repr)
def test_block_that_lists_no_server(
    start: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, inventory: object
) -> None:
    monkeypatch.setattr(webbridge_restart, "WEBBRIDGES", inventory)
    assert_refused(start, LISTS_NONE.format("WEBBRIDGES"))


@pytest.mark.parametrize("number", ["1", None, "one", (1, 2), 1.5], ids=repr)
def test_block_with_an_entry_that_has_no_number(
    start: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, number: object
) -> None:
    monkeypatch.setattr(webbridge_restart, "WEBBRIDGES", {7: "10.0.0.7", number: "10.0.0.1"})
    assert_refused(start, NO_NUMBER.format("WEBBRIDGES", number, "10.0.0.1"))


@pytest.mark.parametrize(
    "address",
    [
        *(None, 10, 10.0, b"10.0.0.1", ["10.0.0.1"], ("10.0.0.1", 22)),
        *("", " ", ":22", "[]:22", "10.0.0.1, 10.0.0.2", "10.0.0.1;"),
        *("https://cms1.example.com", "ssh://10.0.0.1", "10.0.0.1/24"),
        *("admin@cms1.example.com", "admin@10.0.0.1:22", "cms1/"),
        *("cms 1", "10.0.0. 1", "cms1 :22", "cms1: 22", "cms1\n.com"),
        *("10.0.0.999", "10.0.0", "10.0.0.1.1", "12345", "010.0.0.1"),
        *("2001:db8::3", "[2001:db8::3", "[2001:db8::z]", "[cms1]:22"),
        *(f"10.0.0.1:{port}" for port in ("0", "65536", "99999", "ssh", "", "-1", "2 2")),
        *("a" * 64, f"cms1.{'a' * 64}.com", "cms1..com", ".cms1"),
        *("-cms1", "-oProxyCommand=x", "cms1.-example.com", "cms1-.com"),
        *("cms\x001", "cms1\u200b", "\x1b[2Jcms1", "cmsé.example.com"),
    ],
    ids=ascii,
)
def test_block_with_an_entry_that_is_no_address(
    start: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, address: object
) -> None:
    monkeypatch.setattr(webbridge_restart, "WEBBRIDGES", {7: "10.0.0.7", 1: address})
    assert_refused(start, NO_ADDRESS.format("WEBBRIDGES", 1, address))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.1:22"),
        ("10.0.0.1:2222", " 10.0.0.1:2222"),
        ("10.0.0.1", "10.0.0.1:022"),
        ("cms1.example.com", "CMS1.Example.com"),
        ("cms1.example.com:22", "cms1.example.com\t"),
        ("[2001:db8::3]", "[2001:DB8:0:0::3]:22"),
    ],
)
def test_block_with_one_server_twice(
    start: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, first: str, second: str
) -> None:
    inventory = {1: first, 2: "10.0.0.2", 3: second}
    monkeypatch.setattr(webbridge_restart, "WEBBRIDGES", inventory)
    assert_refused(start, TWICE.format("WEBBRIDGES", second.strip()))


@pytest.mark.parametrize(
    ("inventory", "sentence"),
    [
        (LIST, LISTS_NONE),
        ({1: "10.0.0.1", 2: "10.0.0.999"}, NO_ADDRESS.replace("{!r}", "2", 1)),
        ({1: "10.0.0.1", None: "10.0.0.999"}, NO_NUMBER.replace("{!r}", "None", 1)),
        ({1: "10.0.0.999", 3: "10.0.0.999"}, NO_ADDRESS.replace("{!r}", "1", 1)),
        ({1: "10.0.0.1", 3: "10.0.0.1"}, TWICE),
    ],
)
def test_block_with_wrong_call_bridges(
    start: Callable[..., Ran],
    monkeypatch: pytest.MonkeyPatch,
    inventory: object,
    sentence: str,
) -> None:
    """They are held to the same rules."""
    monkeypatch.setattr(webbridge_restart, "CALLBRIDGES", inventory)
    address = "10.0.0.1" if sentence == TWICE else "10.0.0.999"
    assert_refused(start, sentence.format("CALLBRIDGES", address))


@pytest.mark.parametrize(
    ("block", "sentence"),
    [
        (
            'WEBBRIDGES = {\n    1: "10.0.0.1",\n    2: "10.0.0.2",\n    1: "10.0.0.3",\n}',
            NUMBER_TWICE.format("WEBBRIDGES", 1),
        ),
        ('WEBBRIDGES = {1: "10.0.0.1", 1: "10.0.0.2"}', NUMBER_TWICE.format("WEBBRIDGES", 1)),
        (
            'WEBBRIDGES = {\n    7: "10.0.0.1",  # rack {A}\n    0x7: "10.0.0.2",\n}',
            NUMBER_TWICE.format("WEBBRIDGES", 7),
        ),
        (
            'WEBBRIDGES = {1: "10.0.0.1"}\nCALLBRIDGES = {3: "10.0.0.1", 3: "10.0.0.2"}',
            NUMBER_TWICE.format("CALLBRIDGES", 3),
        ),
        (
            'CALLBRIDGES: dict[int, str] = {3: "10.0.0.1", 3: "10.0.0.2"}',
            NUMBER_TWICE.format("CALLBRIDGES", 3),
        ),
    ],
)
def test_block_with_one_number_twice(
    start: Callable[..., Ran], script: Path, block: str, sentence: str
) -> None:
    """Python keeps the last of them, and says nothing of the others."""
    script.write_text(f"{block}\n", "utf-8")
    assert_refused(start, sentence)


def test_block_with_one_number_in_each_dict_and_in_a_comment(
    start: Callable[..., Ran], script: Path
) -> None:
    script.write_text(
        'WEBBRIDGES = {\n    1: "10.0.0.1",\n    # 1: "10.0.0.2",\n}\nCALLBRIDGES = {1: "cms1"}\n',
        "utf-8",
    )
    assert start("3").err == "No server 3. WEBBRIDGES has 1 (10.0.0.1).\n"


@pytest.mark.parametrize("value", [None, 0, 12345, b"admin", ["admin"]], ids=repr)
@pytest.mark.parametrize("name", ["MMP_USERNAME", "MMP_PASSWORD"])
def test_block_with_a_name_or_password_that_is_not_text(
    start: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    monkeypatch.setattr(webbridge_restart, name, value)
    assert_refused(start, NOT_TEXT.format(name))


@pytest.mark.parametrize(
    ("name", "sentence"), [("MMP_USERNAME", NO_USER), ("MMP_PASSWORD", NO_PASSWORD)]
)
def test_block_without_name_or_password(
    start: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, name: str, sentence: str
) -> None:
    monkeypatch.setattr(webbridge_restart, name, "")
    assert_refused(start, sentence)


RIGHT = {
    "10.48.79.194": ("10.48.79.194", 22),
    "10.48.79.195:2222": ("10.48.79.195", 2222),
    " 10.48.79.196 ": ("10.48.79.196", 22),
    "10.48.79.197:65535": ("10.48.79.197", 65535),
    "[2001:db8::3]:22": ("2001:db8::3", 22),
    "[2001:DB8:0:0::4]": ("2001:db8::4", 22),
    "cms1": ("cms1", 22),
    "CMS2.Example.COM": ("cms2.example.com", 22),
    "cms_3.example.com:2222": ("cms_3.example.com", 2222),
    "xn--bcher-kva.example": ("xn--bcher-kva.example", 22),
    "4cms.example.com": ("4cms.example.com", 22),
    f"{'a' * 63}.example.com": (f"{'a' * 63}.example.com", 22),
}


def test_block_with_every_right_form(
    start: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []

    def getaddrinfo(host: str, port: int, **_: object) -> object:
        called.append((host, port))
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(webbridge_restart, "WEBBRIDGES", dict(enumerate(RIGHT, 1)))
    ran = start()
    assert list(dict.fromkeys(called)) == list(RIGHT.values())
    assert ran.status == 1
    assert ran.log[::2] == [failed(address.strip(), "")[0] for address in RIGHT]


# ---- Which password ------------------------------------------------------------------------------

TYPED, IN_FILE, IN_ENVIRONMENT, IN_SCRIPT = "typed", "in the file", "environment", "in the script"


@pytest.fixture
def inline(script: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A password in the script, which only its owner can read."""
    monkeypatch.setattr(webbridge_restart, "MMP_PASSWORD", IN_SCRIPT)
    return script


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """A terminal, at whose prompt a password is typed. It is the function that asks."""
    asks = Mock(return_value=TYPED)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", asks)
    return asks


@pytest.mark.parametrize(
    ("asked", "in_file", "in_environment", "in_script", "password", "source"),
    [
        (True, True, True, True, TYPED, "typed at the prompt"),
        (False, True, True, True, IN_FILE, "from FILE"),
        (False, False, True, True, IN_ENVIRONMENT, "from MMP_PASSWORD in the environment"),
        (False, False, False, True, IN_SCRIPT, "from MMP_PASSWORD in webbridge_restart.py"),
        (True, False, True, False, TYPED, "typed at the prompt"),
        (True, True, False, False, TYPED, "typed at the prompt"),
        (False, True, False, False, IN_FILE, "from FILE"),
    ],
)
def test_refused_login_says_where_the_password_came_from(
    run: Run,
    mmp: SimulatedMMP,
    inline: Path,
    terminal: Mock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: bool,
    in_file: bool,
    in_environment: bool,
    in_script: bool,
    password: str,
    source: str,
) -> None:
    """The options go before the environment, and that goes before the script."""
    file = private_file(tmp_path / "password", f"{IN_FILE}\n".encode())
    options = [*(["--ask-password"] * asked), *(["--password-file", str(file)] * in_file)]
    if in_environment:
        monkeypatch.setenv("MMP_PASSWORD", IN_ENVIRONMENT)
    else:
        monkeypatch.delenv("MMP_PASSWORD", raising=False)
    if not in_script:
        monkeypatch.setattr(webbridge_restart, "MMP_PASSWORD", "")
    ran = run([mmp], *options, "-v")
    assert mmp.passwords == [password]
    assert terminal.call_count == asked
    reason = (
        "Login refused; not retried, so as not to lock the account. Wrong user name or password "
        f"({source.replace('FILE', str(file))}), locked account, or an MMP 'user host' or "
        "'user duty' rule; or the server hung up. Try once by hand: "
        f"ssh -p {mmp.port} admin@127.0.0.1"
    )
    assert ran.log == failed(mmp, reason)
    assert ran.status == 1


def test_password_is_never_told(
    run: Run, mmp: SimulatedMMP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MMP_PASSWORD")
    file = private_file(tmp_path / "pw", b"hunter2")
    ran = run([mmp], "--password-file", str(file), "--verbose")
    mmp.password = "hunter2"
    logged_in = run([mmp], "--password-file", str(file), "--verbose")
    told = [*ran.log, ran.out, ran.err, *logged_in.log, logged_in.out, logged_in.err]
    assert mmp.passwords == ["hunter2"] * 2
    assert "hunter2" not in "".join(told)
    options = webbridge_restart.parse_options(["--password-file", str(file)])
    assert "hunter2" not in repr(webbridge_restart.read_access(options))


# ---- A password file -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"pass word\n",
        b"pass word",
        b"pass word\r\nsecond line\n",
        b"pass word\nsecond line in Latin-1: \xc3\xa9\n",
    ],
)
def test_password_is_the_first_line_of_the_file(
    run: Run, mmp: SimulatedMMP, tmp_path: Path, content: bytes
) -> None:
    mmp.password = "pass word"
    file = private_file(tmp_path / "pw", content)
    assert run([mmp], "--password-file", str(file)).log == [restarted(mmp)]
    assert mmp.passwords == ["pass word"]


EMPTY = "The first line of FILE is empty. Write the password there."
NOT_UTF_8 = "The password file FILE is not UTF-8. Save it again as UTF-8."


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", EMPTY),
        (b"\n", EMPTY),
        (b"\r\nsecret on line 2\r\n", EMPTY),
        ("\ufeff\nsecret on line 2\n".encode(), EMPTY),
        ("p\xe4ssword\n".encode("latin-1"), NOT_UTF_8),
    ],
)
@pytest.mark.parametrize("option", ["pw", "./pw"])
def test_password_file_without_a_password(
    run: Run,
    mmp: SimulatedMMP,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
    sentence: str,
    option: str,
) -> None:
    """The sentence has the full path. The environment does not help out."""
    monkeypatch.chdir(tmp_path)
    file = private_file(tmp_path / "pw", content)
    expected = sentence.replace("FILE", str(file))
    assert refused(run, [mmp], "--password-file", option) == expected


def test_missing_password_file(
    run: Run, mmp: SimulatedMMP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sentence = f"Cannot read the password file {tmp_path / 'none'}: {NOT_FOUND}."
    assert refused(run, [mmp], "--password-file", "none") == sentence


def test_name_of_a_file_cannot_forge_a_line_of_the_log(
    run: Run, mmp: SimulatedMMP, tmp_path: Path
) -> None:
    path = tmp_path / "none\nWebbridge on server: 10.0.0.9 restarted successfully"
    ran = run([mmp], "--password-file", str(path))
    reason = error_of(path.read_bytes)
    escaped = str(path).replace("\n", "\\n")
    assert ran.log == [f"Cannot read the password file {escaped}: {reason}."]
    assert ran.status == 2


def test_password_file_that_is_a_folder(run: Run, mmp: SimulatedMMP, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o700)
    sentence = f"Cannot read the password file {folder}: {error_of(folder.read_bytes)}."
    assert refused(run, [mmp], "--password-file", str(folder)) == sentence


@MODES
@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_password_file_that_others_can_read(
    run: Run, mmp: SimulatedMMP, tmp_path: Path, mode: int
) -> None:
    file = private_file(tmp_path / "pw", PASSWORD.encode())
    file.chmod(mode)
    sentence = f"Others can read the password in {file}. Run: chmod go-rwx '{file}'"
    assert refused(run, [mmp], "--password-file", str(file)) == sentence


@MODES
@pytest.mark.parametrize("environment", [True, False])
def test_password_in_a_script_that_others_can_read(
    run: Run, mmp: SimulatedMMP, inline: Path, monkeypatch: pytest.MonkeyPatch, environment: bool
) -> None:
    """Also if another password is used: this one is in the open all the same."""
    if environment:
        monkeypatch.setenv("MMP_PASSWORD", PASSWORD)
    inline.chmod(0o755)
    sentence = f"Others can read the password in {inline}. Run: chmod go-rwx '{inline}'"
    assert refused(run, [mmp]) == sentence


# ---- The prompt, and the environment -------------------------------------------------------------


def test_prompt_names_the_user(run: Run, mmp: SimulatedMMP, terminal: Mock) -> None:
    mmp.password = TYPED
    assert run([mmp], "--ask-password").log == [restarted(mmp)]
    terminal.assert_called_once_with("MMP password of admin: ")


@pytest.mark.parametrize(
    "typed",
    [[""], EOFError(), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")],
    ids=["an empty line", "end of file", "not UTF-8"],
)
def test_nothing_typed_at_the_prompt(
    run: Run, mmp: SimulatedMMP, terminal: Mock, typed: object
) -> None:
    """The password in the environment does not help out: it was not asked for."""
    terminal.side_effect = typed
    assert refused(run, [mmp], "--ask-password") == "No password was typed."


@pytest.mark.parametrize("stdin", [None, Mock(isatty=lambda: False)], ids=["none", "no terminal"])
def test_prompt_without_a_terminal(
    run: Run, mmp: SimulatedMMP, monkeypatch: pytest.MonkeyPatch, stdin: object
) -> None:
    monkeypatch.setattr("sys.stdin", stdin)
    sentence = "--ask-password needs a terminal. Use --password-file in a scheduled job."
    assert refused(run, [mmp], "--ask-password") == sentence


def test_ctrl_c_at_the_prompt(run: Run, mmp: SimulatedMMP, terminal: Mock) -> None:
    terminal.side_effect = KeyboardInterrupt
    ran = run([mmp], "--ask-password")
    assert (ran.status, ran.err, ran.log, mmp.connections) == (130, "", [], 0)


def test_password_in_the_environment_that_is_not_utf_8(
    run: Run, mmp: SimulatedMMP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python keeps its bytes as halves of letters."""
    monkeypatch.setattr(os, "environ", {**os.environ, "MMP_PASSWORD": "p\udce4ssword"})
    sentence = "The password from MMP_PASSWORD in the environment is not UTF-8."
    assert refused(run, [mmp]) == sentence


# ---- Known hosts ---------------------------------------------------------------------------------


def hashed(mmp: SimulatedMMP) -> str:
    name, kind, key = mmp.known_hosts_line.split()
    return f"{paramiko.HostKeys.hash_host(name)} {kind} {key}"


@pytest.mark.parametrize("form", ["plain", "hashed", "list", "comment", "tabs", "unknown type"])
def test_known_hosts_forms(run: Run, mmp: SimulatedMMP, known_hosts: Path, form: str) -> None:
    name, kind, key = mmp.known_hosts_line.split()
    forms = {
        "plain": f"{name} {kind} {key}\n",
        "hashed": hashed(mmp),
        "list": f"cms1.example.com,{name},10.0.0.1 {kind} {key}",
        "comment": f"# MMPs\n\n  # one more\n{name} {kind} {key} the first of them\n",
        "tabs": f"{name}\t{kind}  {key}\n",
        "unknown type": f"10.0.0.1 ssh-dss AAAAB3NzaC1kc3M=\n{name} {kind} {key}\n",
    }
    known_hosts.write_text(forms[form], encoding="utf-8")
    assert run([mmp]).log == [restarted(mmp)]


@pytest.mark.parametrize(
    "line",
    [
        "10.0.0.1",
        "10.0.0.1 ssh-ed25519",
        "10.0.0.1 ssh-ed25519 AAAA!",
        "10.0.0.1 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA==",
        "@revoked 10.0.0.1 ssh-ed25519 AAAA",
        "@revoked 10.0.0.1 KEY",
        "@revoked 10.0.0.1 ssh-rsa42 AAAA",
        "@cert-authority *.example.com ssh-rsa AAAA",
        "|1|bad|hash KEY",
        "|1| KEY",
        "\udcff\udcfe",
    ],
    ids=ascii,
)
def test_unusable_line_of_known_hosts_is_named(
    run: Run, mmp: SimulatedMMP, known_hosts: Path, line: str
) -> None:
    key = ed25519_key()
    text = line.replace("KEY", f"{key.get_name()} {key.get_base64()}")
    content = f"{mmp.known_hosts_line}\n# comment\n{text}\n"
    known_hosts.write_bytes(content.encode("utf-8", "surrogateescape"))
    assert refused(run, [mmp]) == (
        f"{known_hosts}, line 3, is not a usable host key. Delete the line, then store the "
        "server's key again with --check --accept-new-host-keys."
    )


def test_known_hosts_that_is_a_folder(run: Run, mmp: SimulatedMMP, tmp_path: Path) -> None:
    sentence = f"Cannot read the known-hosts file {tmp_path}: {error_of(tmp_path.read_bytes)}."
    assert refused(run, [mmp], "--known-hosts", str(tmp_path)) == sentence


# ---- The log -------------------------------------------------------------------------------------


def test_check_leaves_no_new_log_behind(run: Run, mmp: SimulatedMMP, tmp_path: Path) -> None:
    """Otherwise a check as root would leave a log that the scheduled job could not write."""
    folder = tmp_path / "logs"
    folder.mkdir()
    log = ["--log-file", str(folder / "log.txt")]
    assert run([mmp], "--check", *log).status == 0
    assert list(folder.iterdir()) == []
    assert run([mmp], "--check", *log, "7").status == 2
    assert list(folder.iterdir()) == []


def test_check_leaves_an_old_log_as_it_is(run: Run, mmp: SimulatedMMP, log_file: Path) -> None:
    log_file.write_bytes(b"of last night\n")
    before = log_file.stat().st_mtime_ns
    assert run([mmp], "--check").status == 0
    assert log_file.read_bytes() == b"of last night\n"
    assert log_file.stat().st_mtime_ns == before


@pytest.mark.parametrize("options", [[], ["--check"], ["--check", "--if-leaked", "1"]], ids=str)
def test_log_that_is_a_folder(
    run: Run, mmp: SimulatedMMP, tmp_path: Path, options: list[str]
) -> None:
    """The check finds it out before the night does."""
    reason = error_of(lambda: tmp_path.open("ab"))
    ran = run([mmp], *options, "--log-file", str(tmp_path))
    assert (ran.status, ran.out, mmp.connections) == (2, "", 0)
    assert ran.err == f"Cannot write to {tmp_path}: {reason}.\n"
