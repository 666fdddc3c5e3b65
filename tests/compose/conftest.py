"""One devnet in containers for these tests, and nothing left of it after them.

Where there is no Docker Engine every test here is skipped, and the summary says so aloud. With
LAYERLAB_COMPOSE_REQUIRED=1 that is a failure instead.
"""

import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from compose_stack import Stack, docker, find_engine

REASON = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[REASON] = find_engine()
    signal.signal(signal.SIGTERM, _end)  # a run that is told to end takes its containers along


def _end(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reason = config.stash[REASON]
    if reason and os.environ.get("LAYERLAB_COMPOSE_REQUIRED") != "1":
        for item in items:
            if item.path.is_relative_to(Path(__file__).parent):  # others need no engine
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows what the containers said."""
    report = yield
    given: dict[str, Any] = getattr(item, "funcargs", {})
    if report.failed and call.when != "teardown":
        for stack in {id(value): value for value in given.values() if isinstance(value, Stack)}.values():
            report.sections.append((f"containers of {stack.project}", stack.story()))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if reason := config.stash[REASON]:
        terminalreporter.write_line("")
        terminalreporter.write_line(f"SKIPPED: the containers were NOT tested: {reason}", bold=True, red=True)


@pytest.fixture(scope="session")
def image() -> Iterator[str]:
    """The image, built from what is here, by a name of its own: another run or a devnet at work keeps its own."""
    reason = find_engine()
    assert not reason, reason
    name = f"layerlab-test:{os.getpid()}"
    docker("build", "-q", "-t", name, ".", seconds=600)
    try:
        yield name
    finally:
        docker("rmi", "--no-prune", "-f", name)  # its layers are the next build's cache


@pytest.fixture(scope="session")
def stack(image: str) -> Iterator[Stack]:
    """The project of these tests; `test_up` starts it. Whatever a test does, nothing of it is left at the end."""
    made = Stack(f"layerlab-test-{os.getpid()}", image)
    try:
        yield made
    finally:
        made.remove()
        left = {kind: made.left(kind) for kind in ("ps", "network", "volume")}
        made.http.close()
    assert not any(left.values()), f"left behind: {left}"


@pytest.fixture
def healthy(stack: Stack) -> Stack:
    """The stack with every service up and ready; what an earlier test broke is healed as a user would."""
    stack.heal()
    return stack
