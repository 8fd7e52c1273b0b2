"""The score step: how well each description predicts its feature on documents that nobody saw while writing it."""
