"""A search in virtual time, with its own ledger and adapters."""
