"""All that can be refused, and what a study will take, before a worker starts."""
