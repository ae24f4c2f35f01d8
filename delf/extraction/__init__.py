"""Photos to feature files: a resumable run for features, boxes and regions."""
