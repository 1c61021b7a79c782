"""The teacher's signals on disk, computed once per text.

Read `manifest` (what a store holds, and which files are its own), `store` (shards of rows: written
completely, checked when opened, mapped), `cached_teacher` (looks rows up; fills what is missing),
`choose` (stored or live, by size and room), `answers` (those to scored rows), `maintenance` (list,
verify, prune). A damaged shard: `store.damaged` says what is wrong, `SignalStore` leaves it out
when it opens, `choose` checks the room, `cached_teacher.fill` computes its rows again.
"""
