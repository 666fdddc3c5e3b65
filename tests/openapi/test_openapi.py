"""Whether ``/openapi.json`` of every service is true: schemathesis asks the running service, on a real socket.

``OPENAPI_EXAMPLES`` and ``OPENAPI_SEED`` make it longer and different; ``make openapi EXAMPLES=200 SEED=7`` sets them.
"""

import os

import httpx
import pytest
from openapi_run import SEED, check_service, operations, wrong_methods

EXAMPLES = int(os.environ.get("OPENAPI_EXAMPLES", "2"))
"""Generated requests for each operation; from 10 on, also every boundary value of the schemas of bodies."""
RUN_SEED = int(os.environ.get("OPENAPI_SEED", str(SEED)))
ROLLUP = ("validator-0", "sequencer", "bridge", "verifier")  # the verifier ends its days dishonest
COMMITTEE = ("committee bridge", "operator")

Urls = tuple[dict[str, str], str]


def check(urls: Urls, name: str) -> None:
    found, token = urls
    with httpx.Client(base_url=found[name], trust_env=False, timeout=20) as http:
        offered = operations(http)
        assert wrong_methods(http) == []
    report = check_service(found[name], token, examples=EXAMPLES, seed=RUN_SEED, short=EXAMPLES < 10)
    print(f"{name}: {report}")
    assert not report.failures, str(report)
    assert not report.errors, str(report)
    assert set(report.operations) == offered
    assert report.statuses[200] > len(offered)


@pytest.mark.xdist_group("openapi-rollup")
@pytest.mark.parametrize("name", ROLLUP)
def test_what_a_service_of_the_rollup_says_of_itself_is_true(rollup_urls: Urls, name: str) -> None:
    check(rollup_urls, name)


@pytest.mark.xdist_group("openapi-committee")
@pytest.mark.parametrize("name", COMMITTEE)
def test_what_a_service_of_a_committee_bridge_says_of_itself_is_true(committee_urls: Urls, name: str) -> None:
    check(committee_urls, name)


@pytest.mark.xdist_group("openapi-rollup")
@pytest.mark.parametrize("name", ["sequencer", "verifier", "bridge"])
def test_a_page_of_batches_begins_where_it_was_asked_to(rollup_urls: Urls, name: str) -> None:
    urls, _ = rollup_urls
    with httpx.Client(base_url=urls[name], trust_env=False) as http:
        first, beyond, none = (
            http.get("/batches", params=params).json()
            for params in ({"from": 0, "limit": 1}, {"from": 9999}, {"limit": 0})
        )
    assert [batch["index"] for batch in first["batches"]] == [0]
    assert beyond["batches"] == []
    assert none["code"] == "invalid_parameter"


@pytest.mark.xdist_group("openapi-rollup")
def test_the_document_names_refusals_and_secrets(rollup_urls: Urls) -> None:
    urls, _ = rollup_urls
    for name, url in urls.items():
        document = httpx.get(url + "/openapi.json", trust_env=False).json()
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                where = (name, method, path)
                problems = {s: r for s, r in operation["responses"].items() if s >= "400"}
                assert problems, where
                for status, response in problems.items():
                    assert set(response["content"]) == {"application/problem+json"}, (*where, status)
                assert ("security" in operation) == path.startswith("/faults"), where
                assert ("401" in problems) == path.startswith("/faults"), where
