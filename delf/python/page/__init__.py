"""One self-contained HTML page of search results."""
