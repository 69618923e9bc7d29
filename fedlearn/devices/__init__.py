"""Simulated devices: what each client runs on, how long a round takes there and what it costs, and who is asked.

No result depends on any of it, unless the config sets a deadline or has the cohort chosen by devices.
"""
