"""The trained miniature: weights, and the code that made them. Nothing here is used when the pack runs."""
