"""The report: one HTML file with figures, which needs no network. Imports Altair, which trainings never do."""
