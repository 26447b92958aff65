"""gRPC. Only this package imports grpc, and only a process that serves gRPC imports this package, after the fork."""
