"""What every test runs under: offline, one thread, repeatable, and nothing left behind."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import threading
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# The tests import warm_contpeft by name, and those of the command line what the experiments' tests share.
sys.path += [str(Path(__file__).parent), str(Path(__file__).parent / "experiments")]

from warm_contpeft import TRACED, warm_contpeft

# Set before anything imports torch, so that sessions which need no torch need not import it.
# Processes that tests start inherit them.
os.environ.update(
    HF_DEACTIVATE_ASYNC_LOAD="1",
    HF_HUB_OFFLINE="1",
    MKL_NUM_THREADS="1",
    MPLBACKEND="Agg",
    OMP_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
)

# What importing torch sets for the whole process, and what pytest sets at every phase.
_IMPORTS = ("KMP_", "PYTEST_CURRENT_TEST", "PYTORCH_", "TORCHINDUCTOR_")
# What Lightning sets when it seeds or sets up ranks, and never takes back.
_LIGHTNING = {
    *("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "WORLD_SIZE"),
    *("PL_GLOBAL_SEED", "PL_SEED_WORKERS", "CUBLAS_WORKSPACE_CONFIG"),
}

# Nobody pulls the plug on the tests: in memory, where it has room, what they write waits for no disk.
_MEMORY = Path("/dev/shm")
if (
    _MEMORY.is_dir()
    and not os.statvfs(_MEMORY).f_flag & os.ST_NOEXEC
    and shutil.disk_usage(_MEMORY).free > 8 << 30
):
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))

settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


# Begun first, so that the process that gets one is not still at it when the other has done all else.
_LONG = {"test_docs.py", "test_every_recipe.py", "test_runner.py"}


def pytest_collection_modifyitems(items: list[pytest.Item], config: pytest.Config) -> None:
    """Puts the files that take longest before all others, and has one case of each test traced.

    Tracing takes two thirds as long again as the tests. Lines that only other cases reach do not count, so
    that what is told as covered is a lower bound; the metrics' own tests are traced whole.
    """
    items.sort(key=lambda item: item.path.name not in _LONG)
    if not config.pluginmanager.hasplugin("_cov") or config.option.no_cov:
        return
    traced: set[str] = set()
    for item in items:
        test = item.nodeid.partition("[")[0]
        if test in traced and "metrics" not in item.path.parts:
            item.add_marker("no_cover")
        traced.add(test)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Hides from the processes that an untraced case starts that coverage is measured."""
    told = os.environ.pop(TRACED, None) if item.get_closest_marker("no_cover") else None
    try:
        return (yield)
    finally:
        if told is not None:
            os.environ[TRACED] = told


def pytest_collection_finish() -> None:
    """Spares every collection of garbage all that importing has made."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a ``contpeft`` and a ``python`` that start at once."""
    with warm_contpeft(tmp_path_factory.mktemp("commands")) as folder:
        yield folder


@pytest.fixture(scope="session")
def learnt_support(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store that has learnt support tickets; to be copied, not changed."""
    from evaluation_files import write_support

    return write_support(tmp_path_factory.mktemp("support")).parent


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """Fails a test that leaves environment variables, threads or a process group behind."""
    environment, threads = dict(os.environ), set(threading.enumerate())
    yield
    left = [
        *_restore(environment),
        *(f"thread {t.name}" for t in threading.enumerate() if t not in threads and not t.daemon),
        *_process_group(),
    ]
    assert not left, f"left behind: {', '.join(left)}"


def _restore(environment: dict[str, str]) -> list[str]:
    """Puts the environment back and returns the names a test had changed in it."""
    changed = {name for name, _ in os.environ.items() ^ environment.items() if not name.startswith(_IMPORTS)}
    for name in changed:
        if name in environment:
            os.environ[name] = environment[name]
        else:
            del os.environ[name]
    return [f"${name}" for name in sorted(changed - _LIGHTNING)]


def _process_group() -> list[str]:
    """Ends torch's process group if there is one and says so."""
    if "torch" not in sys.modules:
        return []
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return []
    dist.destroy_process_group()
    return ["a torch.distributed process group"]


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """BOFT looks for a compiler, and leaves these variables set when there is none."""
    for name, value in {"CC": "gcc", "CXX": "g++", "TORCH_EXTENSIONS_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
