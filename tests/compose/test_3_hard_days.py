"""Power that fails, machines that start again, cut cables: what is paid stays paid, once, and nothing forks."""

from compose_stack import SERVICES, VALIDATORS, Stack, address_of, docker, run

COIN = 10**9


def all_is_well(stack: Stack) -> None:
    """Every validator goes on, on one chain, all with their stake, and the bridge's books are right."""
    stack.finality_goes_on(VALIDATORS)
    stack.require_no_fork()
    stack.require_nobody_slashed()
    stack.wait("the bridge is in step", lambda: stack.get("bridge", "/bridge")["invariant"]["holds"])


def test_a_withdrawal_outlives_a_power_failure_and_is_paid_once(healthy: Stack) -> None:
    """SIGKILL for everyone at one moment, in the middle of a withdrawal."""
    transfer = healthy.transfer("grace", "heidi", COIN)
    sent = healthy.post("bridge", "/withdrawals", {"from": "heidi", "amount": 7 * COIN})
    path = f"/withdrawals/{sent['hash']}"
    healthy.wait("L2 has the withdrawal", lambda: healthy.get("bridge", path).get("l2_height"))
    genesis = healthy.get("validator-0", "/status")["genesis_hash"]
    height, had = healthy.final("validator-0"), healthy.balance("sequencer", "heidi")
    docker("kill", *(healthy.container(service) for service in SERVICES))
    assert not healthy.running() & set(SERVICES)
    healthy.up()
    assert healthy.get("validator-0", "/status")["genesis_hash"] == genesis
    assert healthy.final("validator-0") >= height
    assert healthy.balance("sequencer", "heidi") == had
    assert healthy.get("sequencer", f"/transactions/{transfer}")["sequencer_receipt"]
    healthy.cli("warp", "--until-withdrawal", sent["hash"])
    healthy.wait(
        "it can be claimed", lambda: healthy.get("bridge", path)["status"] == "ready-to-claim", seconds=30
    )
    before = healthy.balance("validator-0", "heidi")
    healthy.post("bridge", path + "/claim", {"from": "ivan"})  # anyone may send it, and pays the fee
    healthy.wait("it is claimed", lambda: healthy.get("bridge", path)["status"] == "claimed")
    healthy.wait(
        "L1 paid it", lambda: healthy.balance("validator-0", "heidi", "finalized") == before + 7 * COIN
    )
    again = healthy.http.post(healthy.urls["bridge"] + path + "/claim", json={"from": "ivan"})
    assert again.is_client_error
    all_is_well(healthy)
    assert healthy.balance("validator-0", "heidi") == before + 7 * COIN


def test_services_may_start_in_any_order(healthy: Stack) -> None:
    """After a reboot the engine starts what ran, and asks nobody what depends on what."""
    healthy.compose("stop", "-t", "10")
    docker("start", *(healthy.container(service) for service in ("bridge", "verifier", "sequencer")))
    for service in ("bridge", "verifier", "sequencer"):
        healthy.wait(f"{service} answers", lambda s=service: healthy.get(s, "/health/live").get("live"))
        assert not healthy.get(service, "/health/ready").get("ready"), f"{service} is ready without L1"
    docker("start", *(healthy.container(service) for service in reversed(VALIDATORS)))
    healthy.wait_ready()
    healthy.transfer("carol", "dave", COIN)
    all_is_well(healthy)


def test_a_deposit_finds_its_way_past_those_who_were_away(healthy: Stack) -> None:
    """L1 takes it while neither sequencer nor bridge is there; both hear of it later."""
    docker("kill", *(healthy.container(service) for service in ("bridge", "sequencer")))
    before = healthy.balance("verifier", "dave")
    arguments = {"to": address_of("dave")}
    call = {"type": "call", "contract": "bridge", "method": "deposit", "args": arguments, "value": 3 * COIN}
    healthy.post("validator-0", "/transactions", {"from": "dave", "action": call})
    healthy.finality_goes_on()
    healthy.up()
    for service in ("sequencer", "verifier"):
        healthy.wait(
            f"the {service} has the deposit",
            lambda s=service: healthy.balance(s, "dave") == before + 3 * COIN,
        )
    all_is_well(healthy)


def test_a_sequencer_that_is_cut_off_catches_up(healthy: Stack) -> None:
    kept = healthy.transfer("erin", "frank", COIN)
    container = healthy.container("sequencer")
    (network,) = healthy.inspect("sequencer")["NetworkSettings"]["Networks"]
    docker("network", "disconnect", network, container)
    try:
        healthy.finality_goes_on()
        assert healthy.get("bridge", "/bridge")["invariant"]["holds"]
    finally:
        docker("network", "connect", "--alias", "sequencer", network, container)
    healthy.wait_ready()
    healthy.transfer("erin", "frank", COIN)
    healthy.wait(
        "what it promised before is in a batch",
        lambda: healthy.get("verifier", f"/transactions/{kept}").get("status") in ("safe", "finalized"),
    )
    all_is_well(healthy)


def test_ports_are_for_this_machine_alone(healthy: Stack) -> None:
    """Not what the file says, but what a connection to the machine's other addresses meets."""
    others = [word for word in run(["hostname", "-I"]).stdout.split() if "." in word]
    for service in SERVICES:
        port = healthy.ports[f"LAYERLAB_PORT_{service.upper().replace('-', '_')}"]
        assert healthy.get(service, "/health/live")["live"]
        code = (
            "import socket, sys\n"
            f"for host in {others!r}:\n"
            f"    try: socket.create_connection((host, {port}), 2).close()\n"
            "    except OSError: continue\n"
            "    sys.exit(host + ' answers')"
        )
        run(["python3", "-c", code])


def test_with_a_wrong_setting_what_runs_goes_on(healthy: Stack) -> None:
    """`up -d` with a typing mistake on a devnet at work: refused, and nothing stops for it."""
    started = {service: healthy.inspect(service)["State"]["StartedAt"] for service in SERVICES}
    shown = healthy.compose("config")
    assert "${" not in shown.stdout
    assert "warn" not in shown.stderr.lower()
    for wrong in ({"LAYERLAB_SLOT_MS": "700"}, {"LAYERLAB_WINDOW": "x"}):
        assert healthy.compose("up", "-d", check=False, **wrong).returncode != 0
    assert {service: healthy.inspect(service)["State"]["StartedAt"] for service in SERVICES} == started
    healthy.finality_goes_on()
