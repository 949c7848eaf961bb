"""The engine: registry, configuration, protocol, training, metrics, results and leaderboards.

It knows no method, loss or data set by name.
"""
