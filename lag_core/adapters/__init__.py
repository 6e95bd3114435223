"""Any PyTorch networks, opened by a small class that their owner writes (docs/open-your-own.md)."""

from lag_core.adapters.adapter import Adapter, AdapterError

__all__ = ["Adapter", "AdapterError"]
