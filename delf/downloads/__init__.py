"""Published files: models, data sets and archives."""
