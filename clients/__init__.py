"""What runs where the data is: torch, numpy, grpcio and protobuf only, but for `app`, a Flower ClientApp."""
