"""Serving: a gRPC server that answers each request at the embedding width its budget allows, and a client for it."""
