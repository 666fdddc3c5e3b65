"""Applications: native contracts that run unchanged on any layer.

Responsible for what users do with a chain (a token, a market). Must not know which chain that is: imports
``chainkit`` only, and is imported by nobody; a genesis names its contracts (``apps.token:Token``).
"""
