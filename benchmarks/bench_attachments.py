"""Peak memory of one 50 MB upload and one 50 MB download, as a multiple of the size of the file.

Run `python benchmarks/bench_attachments.py`. Each row is measured in a process of its own, against a service
simulated in another process. `resident` is the growth of the resident memory at its peak since a small transfer of the
same kind, read from /proc, so on Linux only. `allocated` is the peak of tracemalloc for the same transfer, measured in
a further process because tracemalloc takes memory itself.
"""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

from nairi_async import MAX_ATTACHMENT_BYTES, NairiSession
from nairi_async.testing import Simulator

SIZE = MAX_ATTACHMENT_BYTES
SMALL = 1024
GOALS = {"upload": 1.5, "download": 2.5}
KINDS = ("upload path", "upload file object", "upload stream", "download", "download and save")


async def serve() -> None:
    """Run the service until standard input ends; print its URL and the ids of a small and a large file."""
    async with Simulator() as simulator:
        ids = [simulator.attachment(f"{size}.bin", os.urandom(size)) for size in (SMALL, SIZE)]
        print(simulator.url, *ids, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def transfer(nairi: NairiSession, kind: str, path: Path, attachment_id: str) -> None:
    """Make one transfer of that kind."""

    async def chunks() -> object:
        with path.open("rb") as file:
            while chunk := file.read(1 << 16):
                yield chunk

    match kind:
        case "upload path":
            await nairi.upload(path)
        case "upload file object":
            with path.open("rb", buffering=io.DEFAULT_BUFFER_SIZE) as file:
                await nairi.upload(file)
        case "upload stream":
            await nairi.upload(chunks())  # type: ignore[arg-type]
        case "download":
            await nairi.download(attachment_id)
        case _:
            await (await nairi.download(attachment_id)).save(path.parent / "saved", overwrite=True)


def resident(word: str) -> int:
    """Return `VmRSS`, the resident memory of this process now, or `VmHWM`, its peak, in bytes.

    `ru_maxrss` does not serve: it starts with the value of the parent process.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith(word))


async def measure(kind: str, tool: str, url: str, ids: tuple[str, str], directory: Path) -> None:
    """Make a small transfer, then a large one; print the growth in bytes and the seconds."""
    async with NairiSession("nr_simulator", base_url=url) as nairi:
        await transfer(nairi, kind, directory / "small.bin", ids[0])
        if tool == "allocated":
            tracemalloc.start()
        before = resident("VmRSS")
        started_at = time.perf_counter()
        await transfer(nairi, kind, directory / "large.bin", ids[1])
        seconds = time.perf_counter() - started_at
        grown = tracemalloc.get_traced_memory()[1] if tool == "allocated" else resident("VmHWM") - before
    print(grown, seconds)


def figures(kind: str, tool: str, *arguments: str) -> tuple[float, float]:
    """Measure in a process of its own; return the growth as a multiple of the size of the file, and the seconds."""
    command = [sys.executable, __file__, "measure", kind, tool, *arguments]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()  # noqa: S603 - ourselves
    return float(printed[0]) / SIZE, float(printed[1])


def main() -> None:
    """Print the table."""
    command = [sys.executable, __file__, "serve"]
    with (
        tempfile.TemporaryDirectory() as directory,
        subprocess.Popen(  # noqa: S603 - ourselves
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as service,
    ):
        for name, size in (("small.bin", SMALL), ("large.bin", SIZE)):
            (Path(directory) / name).write_bytes(os.urandom(size))
        assert service.stdin is not None  # noqa: S101 - asked for above
        assert service.stdout is not None  # noqa: S101 - asked for above
        arguments = [*service.stdout.readline().split(), directory]
        print(f"{'50 MB':<22}{'goal':>8}{'resident':>12}{'allocated':>12}{'seconds':>10}")
        for kind in KINDS:
            resident, seconds = figures(kind, "resident", *arguments)
            allocated, _ = figures(kind, "allocated", *arguments)
            goal = GOALS[kind.split(" ", maxsplit=1)[0]]
            print(f"{kind:<22}{goal:>6.1f} x{resident:>10.2f} x{allocated:>10.2f} x{seconds:>10.2f}")
        service.stdin.close()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve"]:
            asyncio.run(serve())
        case ["measure", kind, tool, url, small_id, large_id, directory]:
            asyncio.run(measure(kind, tool, url, (small_id, large_id), Path(directory)))
        case _:
            main()
