"""Whether anything that layerlab is installed with has a known vulnerability: asks osv.dev, once, about what is here.

``python .ci/dependencies.py`` with the interpreter beside which layerlab is installed. Exit code 1 if an advisory is
found: upgrade it. 0 if none is, and also, said aloud, if the advisories cannot be had (no network): with ``--required``
or LAYERLAB_ADVISORIES_REQUIRED=1 that is exit code 2. There is no list of exceptions.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any, Final

import httpx
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

URL: Final = "https://api.osv.dev/v1/querybatch"
PAGE: Final = "https://osv.dev/vulnerability/"
ROOT: Final = "layerlab"
EXTRAS: Final = ("dev",)
SECONDS: Final = 20.0

Ask = Callable[[dict[str, Any]], Any]
"""From the body of a query to its answer; raises `UnavailableError`."""


class UnavailableError(Exception):
    """The advisories cannot be had; the message says why."""


def installed(root: str = ROOT, extras: Sequence[str] = EXTRAS) -> dict[str, str]:
    """Every distribution that ``root`` needs here, and what those need, with its version."""
    found: dict[str, str] = {}
    waiting = [(root, frozenset(extras))]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            made = distribution(name)
        except PackageNotFoundError:  # not for this platform, or of an extra that nobody asked for
            continue
        if name != root:
            found[canonicalize_name(name)] = made.version
        for text in made.requires or []:
            need = Requirement(text)
            places = [{"extra": extra} for extra in ("", *wanted)]
            if need.marker is None or any(need.marker.evaluate(place) for place in places):
                waiting.append((canonicalize_name(need.name), frozenset(need.extras)))
    return dict(sorted(found.items()))


def ask_osv(body: dict[str, Any]) -> Any:
    """One request. Raises `UnavailableError`."""
    try:
        answer = httpx.post(URL, json=body, timeout=SECONDS)
        answer.raise_for_status()
        return answer.json()
    except (httpx.HTTPError, ValueError, OSError) as error:
        raise UnavailableError(f"{URL}: {type(error).__name__}: {error}") from None


def advisories(packages: dict[str, str], ask: Ask = ask_osv) -> dict[str, list[str]]:
    """Ids of advisories by package, for those that have any. Raises `UnavailableError`, also for half an answer."""
    queries = [
        {"package": {"name": name, "ecosystem": "PyPI"}, "version": version}
        for name, version in packages.items()
    ]
    answer = ask({"queries": queries})
    results = answer.get("results") if isinstance(answer, dict) else None
    if not isinstance(results, list) or len(results) != len(queries):
        raise UnavailableError(f"{URL} does not answer what it was asked")
    found: dict[str, list[str]] = {}
    for name, result in zip(packages, results, strict=True):
        listed = result.get("vulns", []) if isinstance(result, dict) else None
        if not isinstance(listed, list) or not all(
            isinstance(v, dict) and isinstance(v.get("id"), str) for v in listed
        ):
            raise UnavailableError(f"{URL}: an answer about {name} that cannot be read")
        if listed:  # of further pages nothing is needed: one advisory is enough to fail
            found[name] = [vulnerability["id"] for vulnerability in listed]
    return found


def main(arguments: Sequence[str] | None = None, ask: Ask = ask_osv) -> int:
    """Print what was found; returns the exit code."""
    options = argparse.ArgumentParser(
        prog="make dependency-audit", description=(__doc__ or "").splitlines()[0]
    )
    options.add_argument("--required", action="store_true", help="fail if the advisories cannot be had")
    args = options.parse_args(arguments)
    packages = installed()
    if not packages:
        print("dependency-audit: layerlab is not installed beside this interpreter", file=sys.stderr)
        return 2
    try:
        found = advisories(packages, ask)
    except UnavailableError as error:
        return _unavailable(str(error), len(packages), required=args.required or _required())
    for name, ids in found.items():
        for one in ids:
            print(f"VULNERABLE  {name} {packages[name]}  {one}  {PAGE}{one}")
    print(f"dependency-audit: {len(packages)} packages, {len(found)} with a known vulnerability (osv.dev)")
    return 1 if found else 0


def _required() -> bool:
    return os.environ.get("LAYERLAB_ADVISORIES_REQUIRED", "").lower() in ("1", "true", "yes", "on")


def _unavailable(why: str, packages: int, *, required: bool) -> int:
    bar = "!" * 100
    print(bar)
    print(f"NOT CHECKED: no advisory data for the {packages} packages that layerlab is installed with.")
    print(f"  {' '.join(why.split())[:300]}")
    print("  Run make dependency-audit where api.osv.dev can be reached.")
    print(bar)
    return 2 if required else 0


if __name__ == "__main__":
    sys.exit(main())
