"""A ``contpeft`` that starts at once: a server that has imported everything forks for every command.

What a command costs in the tests is mostly the import of torch and transformers. The folder this makes holds
a ``contpeft`` that hands its arguments, environment, working directory and open files to the server.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

_IMPORTED = ("contpeft.cli", "contpeft.experiments.report", "contpeft.strategies.page")
_CLIENT = """\
#!{python} -SE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    told = json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]).encode()
    socket.send_fds(server, [len(told).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(told)
    sys.exit(int.from_bytes(server.recv(1), "big"))
"""


@contextmanager
def warm_contpeft(folder: Path) -> Iterator[Path]:
    """Makes the folder to put first in ``PATH``; the server ends with the block."""
    address, client = folder / "socket", folder / "bin" / "contpeft"
    client.parent.mkdir()
    client.write_text(_CLIENT.format(python=sys.executable, address=str(address)))
    client.chmod(0o755)
    with subprocess.Popen([sys.executable, __file__, str(address)], stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            yield client.parent
        finally:
            server.terminate()


def _serve(address: str) -> None:
    for module in _IMPORTED:
        import_module(module)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        os.write(1, b"ready\n")
        while True:
            asker, _ = server.accept()
            _answer(asker)


def _answer(asker: socket.socket) -> None:
    length, files, *_ = socket.recv_fds(asker, 4, 3)
    told = b""
    while len(told) < int.from_bytes(length, "big") and (more := asker.recv(1 << 16)):
        told += more
    child = os.fork()
    if child == 0:
        _run(files, *json.loads(told))
    for file in files:
        os.close(file)

    def wait() -> None:
        _, status = os.waitpid(child, 0)
        with asker:
            asker.sendall(bytes([os.waitstatus_to_exitcode(status) % 256]))

    threading.Thread(target=wait).start()


def _run(files: list[int], arguments: list[str], environment: dict[str, str], folder: str) -> None:
    """Is ``contpeft``, in a process of its own that never returns."""
    from contpeft.cli import main

    code = 1
    try:
        for own, given in enumerate(files):
            os.dup2(given, own)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        sys.argv = ["contpeft", *arguments]
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve(sys.argv[1])
