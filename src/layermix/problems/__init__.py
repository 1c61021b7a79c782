"""What depends on the kind of label, in one object a kind.

`problem` is the protocol; `classification` (one class per row), `multi_label`, `regression` (a
number) and `tags` (one for each word) are layermix's own, and `kinds` lists them by name. To add
one, write a module beside them and its row there: no other package asks which kind it is.
"""
