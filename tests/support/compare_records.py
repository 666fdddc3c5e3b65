"""Records of runs that never were, in the shape that `layerlab.lab.compare.runner` gives them."""

from typing import Any

FACTS: dict[str, Any] = {
    "seed": 7,
    "started": "2026-01-02T03:04:05+00:00",
    "seconds": 12.5,
    "commit": "0123456789ab",
    "versions": {"python": "3.11.7"},
    "machine": {"cores": 2, "processor": "a processor", "memory_bytes": 1, "system": "Linux"},
}
PLANNED = {
    "sovereign": ("operator-disappears", "operator-censors", "burn-down", "double-spend"),
    "optimistic": ("operator-disappears", "operator-steals", "burn-down", "rule-change", "double-spend"),
}


def workload(model: str, run: str, *, exits: float | None = None) -> dict[str, Any]:
    """A workload's record; one without an exit sees none."""
    return {
        "run": run,
        "kind": "workload",
        "model": model,
        "experiment": "",
        "verdict": "measured",
        "error": "",
        "measured": {
            "users": {
                "transactions_per_second": 250.5,
                "transfers_per_second": 1_000.0,
                "soft_p50_s": 0.2,
                "soft_p95_s": 0.41,
                "final_p50_s": 1.25,
                "final_p95_s": 2.0,
                "fee_per_call_gwei": 400_123,
                "exit_s": exits,
                "exit": "no exit" if exits is None else "paid on L1",
            },
            "economics": {
                "l1_share_percent": 0.0,
                "l1_bytes_per_transaction": 0.0,
                "margin_percent": 20.0,
                "margin_gwei": 22_200_136,
                "burned_gwei": 88,
            },
            "burden": {
                "processes_own": 4,
                "processes_l1": 0,
                "locked_own_gwei": 4_000_000_000_000,
                "locked_l1_gwei": 0,
                "cpu_s_per_1000_transactions": 1.16,
                "stored_bytes_per_1000_transactions": 3_541_767,
                "idle_cpu_percent_of_a_core": 10.0,
            },
        },
        "assumptions": {"l1_validators": 4, "l1_slot_ms": 400, "stake_per_validator_gwei": 1_000_000_000_000},
        **FACTS,
    }


def experiment(
    model: str, name: str, run: str, *, verdict: str = "confirmed", told: str = "it was seen"
) -> dict[str, Any]:
    """An experiment's record, its trial and its control."""
    good = verdict != "unknown"
    return {
        "run": run,
        "kind": "experiment",
        "model": model,
        "experiment": name,
        "verdict": verdict,
        "error": "" if good else "a service did not answer",
        "question": "What then?",
        "hypothesis": "nothing is lost",
        "control": "no protection",
        "trials": [_side(False, good, told, 100, 12.25), _side(True, good, told, 0, None)],
        "assumptions": {"l1_validators": 1, "challenge_window_l1_blocks": 24},
        **FACTS,
    }


def _side(control: bool, good: bool, told: str, percent: int, seconds: float | None) -> dict[str, Any]:
    outcome = {
        "recovered_percent": percent,
        "seconds": seconds,
        "online": "the user",
        "attacker_paid": 10_000_000_000,
    }
    return {
        "control": control,
        "held": not control if good else None,
        "told": told if good else "",
        "outcome": outcome if good else None,
        "measured": {"l1_blocks": 3, "who": "nobody", "in_app_percent": 0},
        "error": "" if good else "a service did not answer",
        "seconds": 5.0,
    }


def all_records() -> list[dict[str, Any]]:
    """What `PLANNED` asks for, each run there."""
    made = [workload("sovereign", "aa000000"), workload("optimistic", "aa000001", exits=12.34)]
    names = [(model, name) for model, there in PLANNED.items() for name in there]
    return made + [experiment(model, name, f"bb{i:06}") for i, (model, name) in enumerate(names)]
