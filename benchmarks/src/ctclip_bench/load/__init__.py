"""Latency and throughput of a server, measured from its clients' side, parity verdict first."""
