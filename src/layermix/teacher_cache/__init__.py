"""The teacher's signals on disk, computed once per text.

Read `store` (shards of rows: written whole, checked when opened, read in place), `cached_teacher`
(looks rows up; fills what is missing), `choose` (stored or live, by size and room), `maintenance`
(list, verify, prune). A damaged shard: `store.damaged` says what is wrong, `SignalStore` leaves it
out when it opens, `choose` weighs the room, `cached_teacher.fill` computes its rows anew.
"""
