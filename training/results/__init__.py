"""The comparison of rankers on real data: its runs, their predictions, and the report made of them."""
