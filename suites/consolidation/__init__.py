"""How many servers fit on one host before users notice.

tile: the mix of guests that is added step by step. servers, target, generator, pgbench, requests:
the load and its log. capacity: what the generator can carry. histograms: logs for other tools.
deployment: tiles in guests. judge: limits, and whether a point is within them. search: the
largest number of tiles within its limits (the knee). accounting: what a point costs the host.
"""
