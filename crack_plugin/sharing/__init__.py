"""A training for others: a repository on the Hugging Face hub, and a page that compares trainings."""
