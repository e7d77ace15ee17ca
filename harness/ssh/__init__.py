"""SSH: sessions to guests and hosts, and the byte streams that carry them."""
