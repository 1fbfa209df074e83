"""The report of runs as one HTML page that needs no network and no other file."""

from orchestrator.report.page.rendering import render as render
