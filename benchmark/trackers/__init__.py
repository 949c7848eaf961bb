"""Trackers: where the scalars of fits are shown while they last; each is a file that registers a ``Tracker``."""
