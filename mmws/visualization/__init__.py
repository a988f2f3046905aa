"""Pictures, tables and pages for people: of samples, predictions and trainings."""
