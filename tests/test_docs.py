"""The documentation holds: its snippets run, its console sessions print what is shown.

A ```` ```python ```` snippet of README.md or docs/*.md is run in order, in one namespace and one
empty working folder a file. ``<!-- skip: reason -->`` before a snippet skips it; ``<!-- run -->``
before a ```` ```console ```` or ```` ```sh ```` snippet of ``$ contpeft ...`` lines runs these, and
compares what they print with what is shown (``...`` stands for anything).
"""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
from markdown_it import MarkdownIt

import contpeft
from contpeft.strategies.page import strategies_page

ROOT = Path(__file__).resolve().parents[1]
PAGES = [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if path.exists()]


@dataclass(frozen=True)
class Snippet:
    """One fenced block: its language, code, first line in the file, and the comment before it."""

    language: str
    code: str
    line: int
    comment: str

    @property
    def skip_reason(self) -> str | None:
        """The reason it is not run; None when it is."""
        if not self.comment.startswith("skip"):
            return None
        reason = self.comment.removeprefix("skip").removeprefix(":").strip()
        assert reason, f"line {self.line}: a skipped snippet needs a reason: <!-- skip: reason -->"
        return reason


def snippets(text: str) -> Iterator[Snippet]:
    """Yields the Python snippets of a page, and the console snippets marked to be run."""
    comment = ""
    for token in MarkdownIt().parse(text):
        if token.type == "fence" and token.map is not None:
            language = token.info.partition(" ")[0]
            if language == "python" or (language in ("console", "sh") and comment == "run"):
                yield Snippet(language, token.content, token.map[0] + 1, comment)
        match = re.fullmatch(r"<!--(.*)-->", token.content.strip(), re.DOTALL)
        comment = match[1].strip() if token.type == "html_block" and match else ""


def sessions(code: str) -> Iterator[tuple[str, str]]:
    """Yields each ``$ contpeft ...`` command of a console snippet with the output shown below it."""
    for part in re.split(r"^\$ ", code, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        assert command.startswith("contpeft "), f"only contpeft commands are run, not {command!r}"
        yield command, shown


def run_python(snippet: Snippet, page: Path, namespace: dict[str, object]) -> None:
    """Runs a Python snippet; tracebacks show the lines of the page."""
    code = "\n" * snippet.line + snippet.code
    exec(compile(code, str(page), "exec", dont_inherit=True), namespace)


def run_console(snippet: Snippet, commands: Path) -> None:
    """Runs the commands of a console snippet and compares what they print with what is shown."""
    path = os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]])
    for command, shown in sessions(snippet.code):
        ran = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            env=os.environ | {"PATH": path, "NO_COLOR": "1", "COLUMNS": "100"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert ran.returncode == 0, f"$ {command}\n{ran.stdout}"
        if shown.strip():
            flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            assert doctest.OutputChecker().check_output(shown, ran.stdout, flags), (
                f"$ {command}\n{ran.stdout}"
            )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_snippets_run(
    page: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    subtests: pytest.Subtests,
    commands: Path,
) -> None:
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    monkeypatch.chdir(tmp_path)
    module = ModuleType(f"page_{page.stem}")
    # Annotations and pickles of classes defined on the page are looked up in their module.
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for snippet in snippets(page.read_text()):
        with subtests.test(f"{page.name}:{snippet.line}"):
            if (reason := snippet.skip_reason) is not None:
                pytest.skip(reason)
            if snippet.language == "python":
                run_python(snippet, page, module.__dict__)
            else:
                run_console(snippet, commands)


def test_snippets_of_a_page() -> None:
    page = (
        "<!-- skip: needs a GPU -->\n```python\na\n```\n"
        "```python\nb\n```\n"
        "<!-- run -->\n\n```console\n$ contpeft --version\ncontpeft 0\n```\n"
        "```sh\n$ make demo\n```\n"
    )
    found = [(s.language, s.code, s.line, s.skip_reason) for s in snippets(page)]
    assert found == [
        ("python", "a\n", 2, "needs a GPU"),
        ("python", "b\n", 5, None),
        ("console", "$ contpeft --version\ncontpeft 0\n", 10, None),
    ]


@pytest.mark.parametrize("comment", ["skip", "skip:"])
def test_skipping_needs_a_reason(comment: str) -> None:
    (snippet,) = snippets(f"<!-- {comment} -->\n```python\na\n```\n")
    with pytest.raises(AssertionError, match="line 2: a skipped snippet needs a reason"):
        snippet.skip_reason  # noqa: B018


def test_sessions_pair_commands_with_what_they_print() -> None:
    code = "$ contpeft store list\nbilling\nrefunds\n$ contpeft store gc\n"
    assert list(sessions(code)) == [("contpeft store list", "billing\nrefunds\n"), ("contpeft store gc", "")]
    with pytest.raises(AssertionError, match="only contpeft commands are run, not 'rm -r x'"):
        list(sessions("$ rm -r x\n"))


def test_a_failing_snippet_points_into_its_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    snippet = Snippet("python", "x = 1\nx / 0\n", 7, "")
    with pytest.raises(ZeroDivisionError) as caught:
        run_python(snippet, page, {})
    assert (str(caught.traceback[-1].path), caught.traceback[-1].lineno + 1) == (str(page), 9)


def test_changelog_has_the_current_version() -> None:
    released = re.findall(
        r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d{2}-\d{2}$", (ROOT / "CHANGELOG.md").read_text(), re.M
    )
    assert released[0] == contpeft.__version__


def test_command_line_page_is_up_to_date(tmp_path: Path) -> None:
    page = tmp_path / "cli.md"
    typer = Path(sys.executable).parent / "typer"
    subprocess.run(
        [typer, "contpeft.cli", "utils", "docs", "--name", "contpeft", "--output", page],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    assert page.read_text() == (ROOT / "docs" / "cli.md").read_text(), "run `make docs`"


def test_strategies_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "strategies" / "recipes.md").read_text()
    assert strategies_page() == page, "run `make docs`"


def test_methods_page_is_up_to_date(commands: Path) -> None:
    page = (ROOT / "docs" / "methods.md").read_text()
    if f"with PEFT {version('peft')}." not in page:
        pytest.skip("the page is of another release of PEFT")
    ran = subprocess.run(
        [commands / "contpeft", "methods", "--markdown"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert ran.stdout == page, "run `make docs`"
