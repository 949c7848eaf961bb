"""Leaderboards: rows of stored runs, their comparison, and what they look like in each format.

``rows`` groups runs, ``comparison`` tests their differences, and ``view`` decides once what is shown of them, in which
order and by which names; ``markdown``, ``text``, ``export`` and ``site`` write it down, and ``files`` keeps a folder.
"""

#: What makes the files of a folder of boards.
COMMAND = "python -m benchmark.leaderboard"
