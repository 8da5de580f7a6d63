"""The one error of these tools: a sentence for the user, printed without a traceback."""


class ToolError(Exception):
    """Something outside this project is not as it must be; the message says what, and what to do."""
