"""From text to tokens: corpora of documents, and the sequences that a subject reads."""
