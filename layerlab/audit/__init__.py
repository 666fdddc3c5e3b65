"""The audit: promises P1 to P5, judged from what L1 shows to anybody.

Responsible for reading certified L1 blocks and their receipts, for keeping books of its own over them, for running
every posted batch again, and for saying what does not hold, where. Shares no code with l1node, rollup or bridge: its
own encoding, hashes, Merkle roots, quorums, gas and fees, signatures through another library than the nodes'. Only
applications that users call on L2 are taken from where genesis names them, and run by a host of its own
(`layerlab.audit.applications`). Pure but for `source`, which fetches.
"""
