"""The pack's own socket types."""

from comfy_api.latest import io

ReduxModelType = io.Custom("REDUX_MODEL")
ReduxTokensType = io.Custom("REDUX_TOKENS")

CATEGORY = "redux"
