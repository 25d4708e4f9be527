"""A Cisco Meeting Server's MMP for the demo: over real SSH on this computer, and well-behaved.

It is made of paramiko, so that the demo needs nothing that the script does not. The MMP of the
tests, which can also behave badly, is in mmp.py.
"""

from __future__ import annotations

import contextlib
import io
import socket
import threading

import paramiko

PASSWORD = "correct horse"
SETTINGS = b"Enabled                 : true\nInterface whitelist     : a:443\n"
SUCCESS = (
    b"SUCCESS: Key and certificate pair match\n"
    b"SUCCESS: certificate verified against CA bundle\n"
    b"SUCCESS: Webbridge enabled\n"
)
FAILURE = b"FAILURE: Webbridge configuration not complete\n"


class DemoMMP(paramiko.ServerInterface):
    """One server, until this process ends. paramiko asks it what to do on each connection."""

    def __init__(self, restart: bytes = SUCCESS) -> None:
        self.answers = {b"webbridge": SETTINGS, b"webbridge restart": restart}
        self.log = b""  # what SFTP serves
        self.key = paramiko.ECDSAKey.generate()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            client, _ = self.listener.accept()
            transport = paramiko.Transport(client)
            transport.add_server_key(self.key)
            transport.set_subsystem_handler("sftp", paramiko.SFTPServer, _Files)
            transport.start_server(threading.Event(), self)

    def check_auth_password(self, username: str, password: str) -> int:
        return paramiko.AUTH_SUCCESSFUL if password == PASSWORD else paramiko.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        text = self.answers[command]
        threading.Thread(target=self._answer, args=(channel, text), daemon=True).start()
        return True

    def _answer(self, channel: paramiko.Channel, text: bytes) -> None:
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):  # the client hung up
            # The client replies to this only after it has received that its command runs.
            channel.get_transport().global_request("are-you-there@example.test")
            channel.sendall(text)
            channel.send_exit_status(0)
            channel.close()


class _Files(paramiko.SFTPServerInterface):
    """The log, under any name."""

    def __init__(self, mmp: DemoMMP) -> None:
        self.text = mmp.log

    def open(self, path: str, flags: int, attr: object) -> paramiko.SFTPHandle:
        log, attributes = paramiko.SFTPHandle(), paramiko.SFTPAttributes()
        log.readfile = io.BytesIO(self.text)  # of which paramiko's own read() reads
        attributes.st_size = len(self.text)
        log.stat = lambda: attributes
        return log
