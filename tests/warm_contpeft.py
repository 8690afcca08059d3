"""A ``contpeft`` and a ``python`` that start at once: a server that has imported everything forks for each.

What a command costs in the tests is mostly the import of torch and transformers. The folder this makes holds
both, which hand their arguments, environment, working directory and open files to the server. One that is
killed takes its fork with it, and one that is interrupted hands that on.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path

from coverage import Coverage

# The last are what training imports when it first needs them.
_IMPORTED = (
    *("contpeft.cli", "contpeft.experiments.report", "contpeft.experiments.method_search"),
    *("contpeft.strategies.page", "sqlite_utils", "transformers.models.bert.modeling_bert"),
)
TRACED = "COVERAGE_PROCESS_CONFIG"
"""What is in the environment of processes whose lines are to be counted."""

_CLIENT = """\
#!{python} -SE
import json, os, signal, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    told = json.dumps([sys.argv, dict(os.environ), os.getcwd()]).encode()
    socket.send_fds(server, [len(told).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(told)
    signal.signal(signal.SIGINT, lambda *_: server.send(b"!"))
    sys.exit(int.from_bytes(server.recv(1), "big"))
"""


@contextmanager
def warm_contpeft(folder: Path) -> Iterator[Path]:
    """Makes the folder to put first in ``PATH``; the server ends with the block, or with this process."""
    address, commands = folder / "socket", folder / "bin"
    commands.mkdir()
    for name in ("contpeft", "python"):
        (commands / name).write_text(_CLIENT.format(python=sys.executable, address=str(address)))
        (commands / name).chmod(0o755)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, __file__, str(address)], **pipes) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        yield commands


def _serve(address: str) -> None:
    for module in _IMPORTED:
        import_module(module)
    gc.freeze()  # a fork that collects passes over what is imported
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        os.write(1, b"ready\n")
        threading.Thread(target=_end_with_who_started_it).start()
        while True:
            asker, _ = server.accept()
            _answer(asker)


def _end_with_who_started_it() -> None:
    os.read(0, 1)
    os._exit(0)


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
    threading.Thread(target=_attend, args=(asker, child)).start()


def _attend(asker: socket.socket, child: int) -> None:
    """Tells the asker how its fork ended, and the fork that the asker was interrupted or killed."""
    asker.settimeout(0.01)
    with asker:
        while not (ended := os.waitpid(child, os.WNOHANG))[0]:
            with suppress(TimeoutError):
                if not asker.recv(1):
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                    return
                os.kill(child, signal.SIGINT)
        asker.sendall(bytes([os.waitstatus_to_exitcode(ended[1]) % 256]))


def _run(files: list[int], arguments: list[str], environment: dict[str, str], folder: str) -> None:
    """Is ``contpeft``, ``python SCRIPT`` or ``python -c CODE``, in its own process that never returns."""
    code = 1
    try:
        for own, given in enumerate(files):
            os.dup2(given, own)
        if TRACED not in environment and (measured := Coverage.current()):
            measured.stop()
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        sys.path += filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _called(*arguments)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        if measured := Coverage.current():
            measured.stop()
            measured.save()
        os._exit(code)


def _called(command: str, *arguments: str) -> None:
    if Path(command).name == "contpeft":
        from contpeft.cli import main

        sys.argv = ["contpeft", *arguments]
        main()
    elif arguments[0] == "-c":
        sys.argv, sys.path[0] = [*arguments[:1], *arguments[2:]], ""
        exec(arguments[1], {"__name__": "__main__"})
    else:
        sys.executable, sys.argv = command, [*arguments]  # what it starts itself starts at once, too
        sys.path[0] = str(Path(arguments[0]).parent)
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    _serve(sys.argv[1])
