"""Forks Python programs: a process that has imported what they need, and waits for requests from `forking.py`.

    python zygote.py SOCKET MODULE...

A child is a process of its own, with its own arguments, environment, directory, streams and signals, and its
interpreter ends as usual. Only the imports are done already, which take most of the time of a short command.
"""

from __future__ import annotations

import gc
import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import sys
from types import ModuleType
from typing import Any

SIZE = 4  # bytes of a number on a socket
STREAMS = 3


def serve(requests: socket.socket) -> dict[str, Any]:
    """Fork for each request, and report the end of each child; return in a child, with the request."""
    reports: dict[int, socket.socket] = {}
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests
    while True:
        ready, _, _ = select.select([requests.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            reap(reports)
        if requests.fileno() in ready:
            request, descriptors = received(requests)
            report = socket.socket(fileno=descriptors.pop())
            sys.stdout.flush()
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for unused in (requests, report, *reports.values()):
                    unused.close()
                os.close(woken)
                os.close(waker)
                for number, descriptor in enumerate(descriptors):
                    os.dup2(descriptor, number)
                    os.close(descriptor)
                return request
            for descriptor in descriptors:
                os.close(descriptor)
            report.sendall(pid.to_bytes(SIZE, "big"))
            reports[pid] = report


def received(requests: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Return a request, the streams of the program and the socket for the report; end where there will be no more."""
    head, descriptors, _, _ = socket.recv_fds(requests, SIZE, STREAMS + 1)
    if not head:
        requests.close()
        raise SystemExit
    left, body = int.from_bytes(head, "big"), b""
    while len(body) < left:
        body += requests.recv(left - len(body))
    return json.loads(body), descriptors


def reap(reports: dict[int, socket.socket]) -> None:
    while reports:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with reports.pop(pid) as report:
            try:
                report.sendall(os.waitstatus_to_exitcode(status).to_bytes(SIZE, "big", signed=True))
            except OSError:
                continue  # the test has ended


def set_up(request: dict[str, Any]) -> None:
    """Make this process what the interpreter would have made it."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    encoding, _, errors = os.environ.get("PYTHONIOENCODING", "utf-8").partition(":")
    for number, name, mode in ((0, "stdin", "rb"), (1, "stdout", "wb"), (2, "stderr", "wb")):
        raw = open(number, mode, closefd=False)  # noqa: SIM115 - a standard stream
        lines = raw.isatty() or name == "stderr"
        stream = io.TextIOWrapper(
            raw, encoding, "backslashreplace" if name == "stderr" else errors or None, line_buffering=lines
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def run(words: list[str]) -> None:
    """Run what stands behind `python` on a command line: a module, a text or a file."""
    match words:
        case ["-m", module, *arguments]:
            sys.argv, sys.path[0] = [module, *arguments], os.getcwd()  # noqa: PTH109 - a text, as the interpreter sets it
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case ["-c", code, *arguments]:
            sys.argv, sys.path[0] = ["-c", *arguments], ""
            main = sys.modules["__main__"] = ModuleType("__main__")
            exec(compile(code, "<string>", "exec"), vars(main))  # noqa: S102 - that is what it is for
        case [path, *arguments]:
            sys.argv, sys.path[0] = [path, *arguments], os.path.dirname(path)  # noqa: PTH120 - see above
            runpy.run_path(path, run_name="__main__")


if __name__ == "__main__":
    for name in sys.argv[2:]:
        importlib.import_module(name)
    gc.freeze()  # so that children neither copy nor collect what they share
    wanted = serve(socket.socket(fileno=int(sys.argv[1])))
    set_up(wanted)
    run(wanted["words"])
