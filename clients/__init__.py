"""What runs where the data is.

It needs torch, numpy, grpcio and protobuf only, but for `app`, a Flower ClientApp.
"""
