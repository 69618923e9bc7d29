"""What runs where the data is; imports torch, numpy, grpcio and protobuf only."""
