"""Simulated devices: what each client runs on, how long a round takes there and what it costs.

No result depends on any of it, unless the config sets a deadline or lets the devices choose the
cohort.
"""
