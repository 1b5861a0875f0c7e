"""Products, the tree of their categories, and which web category lies on which zone's shelf."""
