"""Finds the smallest student that is good enough.

`space` makes candidates of axes, `measure` their size and time before they are trained, `halving`
decides which go on, `search` runs it all as studies and judges the one that is chosen, `schema` is
the record that it leaves, `text` shows it.
"""
