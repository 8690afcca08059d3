"""Methods that change what a model reads: trained vectors before the inputs, or before keys and values."""

from contpeft.adapters.prompts.configs import PROMPT_METHODS, completed, is_prompt

__all__ = ["PROMPT_METHODS", "completed", "is_prompt"]
