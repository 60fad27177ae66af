"""What uploads and replies cost: the ledger, codes of positions and values, models of links."""
