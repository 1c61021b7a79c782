"""What depends on the kind of label, in one object a kind.

`problem` is the protocol; `classification` (one class per row) is the only kind so far, and `kinds`
lists them by name. To add one (several labels, a number, a label per token), write a module beside
it: no other package asks which kind it is.
"""
