"""The whole system inside one process: real services, virtual time, one seed.

Responsible for running the services' own classes (`l1node.service.create`, `rollup.service.create`,
`bridge.service.create`) over a simulated network, simulated disks and a virtual clock, for doing harm to
them, and for judging what they do. Nothing in here is known to production code.

    loop       virtual time: an event loop that never waits
    network    packets between processes; stands where httpx and sockets would
    disk       stores that crash at a commit, SQLite's files with torn writes included
    memory     a store without files, for most seeds
    process    a service as a process: start, kill -9, restart, exit on failure
    faults     what can go wrong, drawn from the seed as a list that can be shrunk
    world      genesis and the cast
    clients    users and attackers
    watcher    looks at every final block, and holds it to the promises
    reference* the slow plain model that the watcher believes
    runner     many seeds, shrinking, replay (``python -m simulation``)
"""
