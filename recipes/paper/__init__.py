"""Huang, Yang and Wang 2024 (doi 10.6339/24-JDS1134) run again: their classifier, data, analyses, and a report of what holds."""
