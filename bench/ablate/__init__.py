"""What each option of a recipe is worth: the runs, how they differ, and the tables of results."""
