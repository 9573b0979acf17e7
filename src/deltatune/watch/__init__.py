"""A comparison or a run looked at while it goes on: read from its files, shown as a page that renews itself.

Nothing is written or locked, and no torch is loaded, but by methods of others: a watch takes little of the
machine that trains.
"""
