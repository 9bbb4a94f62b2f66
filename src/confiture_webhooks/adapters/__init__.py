"""The outside world: stores, the network, Confiture."""
