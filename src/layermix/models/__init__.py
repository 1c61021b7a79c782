"""Teachers and students: loaded, made, read, run.

Read `encoder` (a transformers classifier as an `Encoder`), `loading` (from a name to a classifier),
`labels` (its classes and their order), `students` (blocks copied from a teacher, or a fresh model),
`narrowing` (narrower blocks from its weights), `live_teacher`. `inference` collects logits,
`latency` times one text, `embedding_rows` trains only the words that occur, `tokenizers` compares
two of them, `static_embeddings` is a baseline.
"""
