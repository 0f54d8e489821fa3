"""Texts for people: tables, the console log, the HTML report. This package computes no results."""
