"""A ranker behind other servers, as their users would write it.

Runs in their environments and imports nothing of ours but its neighbours.
"""
