"""Batches and disputes over HTTP: the game played by hand, each move refused where it is not due."""

from pathlib import Path

from bridge_world import SETTINGS, World, lying_batch, run_story

from bridge import abi


def test_a_dispute_is_played_to_its_verdict_by_hand(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        batch = await lying_batch(world)
        shown = await world.get(f"/batches/{batch}")
        assert (shown["matches"], shown["status"], shown["blocks_left"]) == (False, "pending", 12)
        assert shown["state_root"] == "0x" + "66" * 32 != shown["computed_root"]
        await world.post("/disputes", {"from": "verifier", "batch": batch})
        world.seal_final()
        shown = await world.get("/disputes/0")
        assert (shown["turn"], shown["stage"], shown["open"]) == ("defender", "bisect", True)
        assert (shown["challenger"]["name"], shown["defender"]["name"]) == ("verifier", "sequencer")
        assert len(shown["cut_points"]) == 3
        clock = shown["clocks"]["defender"]
        world.seal()
        assert (await world.get("/disputes/0"))["clocks"]["defender"] == clock - 1
        assert (await world.post("/disputes/0/choose", {"from": "verifier"}, 409))["code"] == "wrong_stage"
        assert (await world.post("/disputes/0/bisect", {"from": "bob"}, 422))["code"] == "not_your_move"
        assert (await world.post("/disputes/0/timeout", {"from": "bob"}, 422))["code"] == "clock_running"
        early = await world.post(f"/batches/{batch}/finalize", {"from": "bob"}, 422)
        assert early["code"] == "too_early"

        while (shown := await world.get("/disputes/0"))["open"]:
            if shown["stage"] == "bisect":  # lies at every cut
                roots = ["0x" + bytes([i + 1] * 32).hex() for i in range(len(shown["cut_points"]))]
                await world.post("/disputes/0/bisect", {"from": "sequencer", "roots": roots})
            else:
                await world.post(f"/disputes/0/{shown['stage']}", {"from": "verifier"})
            world.seal_final()
        assert (shown["winner"], shown["reason"], shown["may_act"]) == ("challenger", "step-proved", "")
        names = [move["name"] for move in shown["history"]]
        assert names[0] == "BatchChallenged"
        assert names[-2:] == ["StepProved", "DisputeResolved"]
        assert {"DisputeBisected", "SegmentChosen"} <= set(names)
        shown = await world.get(f"/batches/{batch}")
        assert (shown["status"], shown["reverted_because"]) == ("reverted", "step-proved")
        assert (await world.post("/disputes/0/settle", {"from": "bob"}, 422))["code"] == "dispute_resolved"
        refused = await world.post(f"/batches/{batch}/finalize", {"from": "bob"}, 422)
        assert refused["code"] == "batch_reverted"

    run_story(tmp_path, story)


def test_a_silent_side_loses_by_a_call_of_time(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        batch = await lying_batch(world)
        for who in ("verifier", "judy"):
            await world.post("/disputes", {"from": who, "batch": batch})
        world.seal_final()
        opened = (await world.get("/disputes/0"))["opened"]
        world.seal_to(opened + SETTINGS.dispute_clock + 1)
        shown = await world.get("/disputes/0")
        assert (shown["clocks"]["defender"], shown["blocks_left"]) == (-1, 0)
        assert "timeout" in shown["may_act"]
        await world.post("/disputes/0/timeout", {"from": "bob"})
        world.seal_final()
        shown = await world.get("/disputes/1")
        assert (shown["open"], shown["moot"]) == (True, True)
        assert (await world.post("/disputes/1/bisect", {"from": "sequencer"}, 409))["code"] == "dispute_moot"
        await world.post("/disputes/1/settle", {"from": "bob"})
        world.seal_final()
        assert (await world.get("/disputes"))["open"] == []
        assert (await world.get("/disputes/1"))["reason"] == "batch-reverted"

    run_story(tmp_path, story)


def test_a_frivolous_challenge_is_possible_and_loses(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.l2_block()
        batch = world.post_batch()
        refused = await world.post("/disputes", {"from": "mallory", "batch": batch}, 422)
        assert refused["code"] == "batch_is_true"
        await world.post("/disputes", {"from": "mallory", "batch": batch, "state_root": "0x" + "12" * 32})
        world.seal_final()
        assert (await world.get("/disputes/0"))["stage"] == "prove"
        proved = await world.post("/disputes/0/prove", {"from": "bob"})
        assert proved["dispute"] == 0
        world.seal_final()
        assert (await world.get("/disputes/0"))["winner"] == "defender"
        assert (await world.get(f"/batches/{batch}"))["status"] == "pending"

    run_story(tmp_path, story)


def test_a_signed_move_must_be_of_the_dispute_in_the_address(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        batch = await lying_batch(world)
        for who in ("verifier", "judy"):
            await world.post("/disputes", {"from": who, "batch": batch})
        world.seal_final()
        tx = world.call("sequencer", "bisect", abi.BisectArgs(1, [b"\x01" * 32] * 3))
        assert (await world.post("/disputes/0/bisect", tx.to_json(), 422))["code"] == "wrong_call"
        assert (await world.post("/disputes/1/choose", tx.to_json(), 422))["code"] == "wrong_call"
        await world.post("/disputes/1/bisect", tx.to_json())

    run_story(tmp_path, story)


def test_a_challenge_is_of_the_first_false_batch_of_its_line(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        first = await lying_batch(world)
        world.l2_block()
        second = world.post_batch()
        problem = await world.post("/disputes", {"from": "verifier", "batch": second}, 422)
        assert problem["code"] == "stands_on_false_batch"
        assert f"false batch {first}" in problem["detail"]
        await world.post("/disputes", {"from": "verifier", "batch": first})
        world.seal_final()
        await world.post(
            "/disputes/0/bisect", {"from": "sequencer"}
        )  # the true roots: the last one is the lie
        world.seal_final()
        await world.post("/disputes/0/choose", {"from": "verifier"})
        world.seal_final()
        shown = await world.get("/disputes/0")
        assert shown["high"] == (await world.get(f"/batches/{first}"))["steps"]

    run_story(tmp_path, story)


def test_with_nothing_false_there_is_nothing_to_choose(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        for _ in range(4):
            world.l2_block()
        batch = world.post_batch()
        root = "0x" + "12" * 32
        await world.post("/disputes", {"from": "mallory", "batch": batch, "state_root": root})
        world.seal_final()
        await world.post("/disputes/0/bisect", {"from": "sequencer"})
        world.seal_final()
        problem = await world.post("/disputes/0/choose", {"from": "mallory"}, 409)
        assert problem["code"] == "nothing_to_choose"

    run_story(tmp_path, story)
