"""The flight recorder of every call a company makes to models through OpenRouter."""

__version__ = "0.1.0"
