"""Texts for people: tables, the console log, the HTML report. It computes no results."""
