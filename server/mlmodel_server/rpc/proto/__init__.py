"""The messages of the Open Inference Protocol over gRPC; generated from the .proto file by ``make generate``."""
