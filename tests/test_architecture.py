"""The shape of the house (docs/ARCHITECTURE.md): imports go down only, in no circle, pure modules do no I/O, and the
command line loads no web framework."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("chainkit", "l1node", "rollup", "bridge", "layerlab", "apps")

PURE = {
    "chainkit": "hashing keys codec merkle merkle_list state gas fees transaction contract execution block chain "
    "genesis mempool waiting offering eviction transfers at_hand block_rows",
    "l1node": "engine staking evidence byzantine blocktree messages actions watch tail observer stakes recent",
    "rollup": "stf block batch packing contents directory trace messenger reading derived derivation player faults "
    "fault_switch duties receipt",
    "bridge": "abi contract books batches dispute arbitration withdrawals upgrade settings ledger committee "
    "committee_abi operator",
    "layerlab": "judge lab.forgery",
    "apps": "token inference_market market_records",
}
IO = (
    "asyncio concurrent ctypes fastapi httpx logging multiprocessing os pathlib psutil random secrets select shutil "
    "signal socket sqlite3 ssl sse_starlette starlette subprocess sys tempfile threading time typer urllib uuid "
    "uvicorn uvloop"
)
ALLOWED = {
    # A logger only tells; it decides nothing.
    ("rollup.duties", "logging"),
    ("l1node.engine", "logging"),
    # The type of a pool of threads that is given; none is made there.
    ("rollup.block", "concurrent"),
    ("rollup.derivation", "concurrent"),
    ("chainkit.transaction", "concurrent"),
}
CONTRACT = (  # what L1's consensus executes
    "abi contract books batches dispute arbitration withdrawals upgrade settings committee committee_abi"
)


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports(path: Path) -> Iterator[str]:
    """Every module or name that a file imports, at any depth, but for what only a type checker sees."""
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        waiting.extend(ast.iter_child_nodes(node))


def own_imports(name: str) -> set[str]:
    """The project's modules that a module imports."""
    found = set()
    for imported in imports(MODULES[name]):
        module = imported if imported in MODULES else imported.rpartition(".")[0]
        if module in MODULES:
            found.add(module)
    return found - {name}


def pure_modules() -> list[str]:
    return [f"{package}.{name}" for package, names in PURE.items() for name in names.split()]


def test_this_test_reads_imports() -> None:
    """Control: it sees what is known to be there."""
    assert {"rollup.node", "rollup.duties", "chainkit.follower"} <= own_imports("rollup.service")
    assert "asyncio" in set(imports(MODULES["chainkit.follower"]))


@pytest.mark.parametrize("name", sorted(pure_modules()))
def test_a_pure_module_imports_no_io(name: str) -> None:
    used = {imported.partition(".")[0] for imported in imports(MODULES[name])}
    assert {module for module in used & set(IO.split()) if (name, module) not in ALLOWED} == set()


CONSENSUS = sorted(
    set(pure_modules()) - {"rollup.duties", "layerlab.judge", "bridge.ledger", "bridge.operator"}
)


@pytest.mark.parametrize("name", CONSENSUS)
def test_what_a_pure_module_stands_on_is_pure(name: str) -> None:
    pure = set(pure_modules())
    assert {module for module in own_imports(name) if module not in pure and module not in PACKAGES} == set()


def test_chainkit_and_l1node_know_nothing_of_rollups() -> None:
    for name in MODULES:
        package = name.partition(".")[0]
        used = {module.partition(".")[0] for module in own_imports(name)}
        if package == "chainkit":
            assert used <= {"chainkit"}, name
        if package == "l1node":
            assert used <= {"chainkit", "l1node"}, name


def test_applications_know_no_chain_and_no_chain_knows_an_application() -> None:
    """They are named in a genesis, so that any layer can host them."""
    for name in MODULES:
        package = name.partition(".")[0]
        used = {module.partition(".")[0] for module in own_imports(name)}
        if package == "apps":
            assert used <= {"chainkit", "apps"}, name
        elif package != "layerlab":
            assert "apps" not in used, name


def test_imports_go_down_only() -> None:
    contract = {f"bridge.{name}" for name in CONTRACT.split()}
    for name in MODULES:
        package, used = name.partition(".")[0], own_imports(name)
        packages = {module.partition(".")[0] for module in used}
        if package != "layerlab":
            assert "layerlab" not in packages, name
        if package == "rollup":
            assert "l1node" not in packages, name
            assert {module for module in used if module.startswith("bridge.")} <= contract, name
        if package == "bridge":
            assert "l1node" not in packages, name
        if name in contract:
            services = {"rollup.service", "rollup.node", "rollup.outbox", "rollup.backend", "rollup.local"}
            assert not used & services, name


def test_no_file_imports_itself_around_a_corner() -> None:
    graph = {name: own_imports(name) for name in MODULES}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


def test_the_judge_shares_no_code_with_those_it_judges() -> None:
    assert own_imports("layerlab.judge") == set()


def test_the_audit_shares_no_code_with_those_it_judges() -> None:
    """Of ours it imports applications, which are named in genesis, and with them what they are written against."""
    for name in (module for module in MODULES if module.startswith("layerlab.audit.")):
        others = {used for used in own_imports(name) if not used.startswith("layerlab.audit")}
        allowed = {"chainkit.codec", "chainkit.contract"} if name == "layerlab.audit.applications" else set()
        assert others <= allowed, name
        if name != "layerlab.audit.source":
            used = {imported.partition(".")[0] for imported in imports(MODULES[name])}
            assert not used & set(IO.split()), name


def test_the_command_line_does_not_load_what_services_are_made_of() -> None:
    """Half of what a verb would take before it does anything; and a client needs no server."""
    frameworks = {"fastapi", "starlette", "uvicorn", "pydantic"}
    for module, loaded in (("layerlab.cli", set()), ("rollup.service", frameworks)):
        code = f"import sys, {module}; print(*sys.modules)"
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert frameworks & set(told.split()) == loaded, module
