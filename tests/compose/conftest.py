"""One devnet in containers for these tests, and nothing left of it after them.

Where there is no Docker Engine every test here is skipped, and the summary says so aloud. With
LAYERLAB_COMPOSE_REQUIRED=1 that is a failure instead.
"""

import os
from collections.abc import Iterator

import pytest
from compose_stack import Stack, docker, find_engine

REASON = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[REASON] = find_engine()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reason = config.stash[REASON]
    if reason and os.environ.get("LAYERLAB_COMPOSE_REQUIRED") != "1":
        for item in items:
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if reason := config.stash[REASON]:
        terminalreporter.write_line("")
        terminalreporter.write_line(f"SKIPPED: the containers were NOT tested: {reason}", bold=True, red=True)


@pytest.fixture(scope="session")
def image() -> str:
    """The image that docker-compose.yml names, built from what is here."""
    reason = find_engine()
    assert not reason, reason
    docker("build", "-q", "-t", "layerlab", ".", seconds=600)
    return "layerlab"


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
    stack.up()
    return stack
