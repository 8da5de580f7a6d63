"""The trained miniature: weights and their installer; `recipe` made them. Nothing here is used when the pack runs."""
