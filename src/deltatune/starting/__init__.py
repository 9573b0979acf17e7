"""From somebody's data to a recipe: what the rows look like, and what to do with them."""
