"""Serving a model where the data is: one version at a time, over REST and gRPC, or a batch."""
