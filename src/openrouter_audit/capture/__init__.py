"""One HTTP exchange becomes facts of intent and outcome."""
