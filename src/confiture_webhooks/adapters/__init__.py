"""The outside world: the network, Confiture and its database, hook files."""
