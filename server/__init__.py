"""The coordinator's library: exchange, journal, trust and figures.

The exchange is `service` (gRPC) around `rounds` (a pure state machine), and `work` is what
a run asks of it. No part of it imports flwr, torch, strategies or clients.
"""
